"""`ssljax evaluate PROTOCOL`: from a run's folder to a table and a file of results."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ssljax import build, mesh
from ssljax.evaluate.encoders import image_features, pixel_features
from ssljax.evaluate.knn import knn
from ssljax.evaluate.periodic import labelled_pair
from ssljax.ops import keys as rng


def evaluate_knn(
    workdir: Path,
    *,
    train: str,
    test: str,
    step: int | None = None,
    size: int | None = None,
    batch_size: int = 256,
    baselines: bool = False,
) -> str:
    """Classify `test` by its nearest neighbours in `train`; write evaluate/knn.json into the run and return a table.

    Args:
        workdir: Of the run.
        train: A prepared set of labelled images.
        test: Another with the same classes.
        step: Which checkpoint; the newest by default.
        size: Side of the images in pixels; what the run trained on by default.
        batch_size: Images encoded at once.
        baselines: Whether to set the encoder at random initialisation and bare pixels beside it.

    Raises:
        InputError: The run or the data cannot be used.
    """
    run = build.restore(workdir, step)
    size = build.image_size(run.config) if size is None else size
    pair, devices = labelled_pair(train=train, test=test, size=size, batch_size=batch_size), mesh.make_mesh()
    features = image_features(run.objective, size)
    encoders: dict[str, Any] = {"trained": functools.partial(features, run.state.params, run.state.state)}
    if baselines:
        key = rng.named(jax.random.key(run.config.seed), "init")  # the one that the run started from
        encoders["random initialisation"] = functools.partial(features, *jax.jit(run.objective.init)(key))
        encoders["pixels"] = pixel_features
    results = {name: knn(encode, *pair, devices) for name, encode in encoders.items()}
    data = {
        name: {"data": place, "images": len(labelled), "checksum": labelled.checksum}
        for name, place, labelled in zip(("train", "test"), (train, test), pair, strict=True)
    }
    record = {"protocol": "knn", "step": int(run.state.step), "size": size, **data, "results": results}
    write_results(workdir / "evaluate" / "knn.json", record)
    return table(results)


def write_results(path: Path, record: Mapping[str, Any]) -> None:
    """Write a protocol's results, whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(path)


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Return results by row and column as Markdown, in per cent."""
    columns = list(next(iter(results.values())))
    width = max(len(name) for name in results)
    rows = [[" " * width, *columns], ["-" * width, *("-" * len(column) for column in columns)]]
    for name, values in results.items():
        rows.append([name.ljust(width), *(f"{100 * values[column]:.2f}".rjust(len(column)) for column in columns)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
