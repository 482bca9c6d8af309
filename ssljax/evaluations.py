"""`ssljax evaluate PROTOCOL`: from a run or a file of weights to a table and a file of results."""

from __future__ import annotations

import errno
import inspect
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ssljax import build, mesh
from ssljax.constructors import CONSTRUCTORS
from ssljax.errors import InputError
from ssljax.evaluate.encoders import pixels_like
from ssljax.export.network import encoder_of
from ssljax.export.read import read_and_tell
from ssljax.models.pure import combine
from ssljax.objectives.base import Encoder
from ssljax.ops import keys as rng

TRAINED, RANDOM, PIXELS = "trained", "random initialisation", "pixels"


class Subjects(NamedTuple):
    """The encoders to evaluate.

    Attributes:
        encoders: By name.
        size: Side in pixels of the images that they were trained on; None where that is not known.
        source: What a record of results says of them.
        folder: Where their results go.
    """

    encoders: dict[str, Encoder]
    size: int | None
    source: dict[str, Any]
    folder: Path


def evaluate(
    protocol: str,
    arguments: Mapping[str, Any],
    *,
    workdir: Path | None = None,
    step: int | None = None,
    weights: Path | None = None,
    baselines: bool = False,
    output: Path | None = None,
) -> tuple[str, Path]:
    """Evaluate a run's encoder or a file's; return a table and the file of results, which is written.

    Args:
        protocol: Its name in `constructors.CONSTRUCTORS`.
        arguments: Of the protocol; a `size` of None is what the encoder was trained on,
            times the protocol's `zoom` if it has one.
        workdir: Of a run, or
        weights: a file or folder of weights, see `read_network`.
        step: Which checkpoint of the run; the newest by default.
        baselines: Whether to set the encoder at random initialisation and bare pixels beside it.
        output: The file of results; by default evaluate/PROTOCOL.json in the run's folder, or beside the weights.

    Raises:
        InputError: The run, the weights, the data or the file of results cannot be used.
    """
    if (workdir is None) == (weights is None):
        raise InputError("Name what to evaluate: --workdir RUN or --weights FILE, one of them.")
    subjects = _of_run(workdir, step) if workdir is not None else _of_weights(weights, step)
    _check_finite(subjects)
    path = output or subjects.folder / f"{protocol}.json"
    _check_destination(path)
    constructor, arguments = CONSTRUCTORS["evaluate"][protocol], dict(arguments)
    if "size" in inspect.signature(constructor).parameters and arguments.get("size") is None:
        arguments["size"] = getattr(constructor, "zoom", 1) * _known(subjects.size)
    built, devices = constructor(**arguments), mesh.make_mesh()
    encoders = {TRAINED: subjects.encoders[TRAINED]}
    if baselines:
        size = arguments.get("size") or _known(subjects.size)
        encoders = subjects.encoders
        if getattr(built, "takes_pixels", True):
            encoders = encoders | {PIXELS: pixels_like(subjects.encoders[TRAINED], size)}
    results = {name: built(encoder, devices) for name, encoder in encoders.items()}
    record = {
        "protocol": protocol,
        **subjects.source,
        "arguments": arguments,
        "data": getattr(built, "data", {}),
        "shares": all(result.shares for result in results.values()),
        "results": {name: dict(result.metrics) for name, result in results.items()},
        "details": {name: dict(result.details) for name, result in results.items() if result.details},
    }
    write_results(path, record)
    return table(record["results"], shares=record["shares"]), path


def _of_run(workdir: Path, step: int | None) -> Subjects:
    run = build.restore(workdir, step)
    key = rng.named(jax.random.key(run.config.seed), "init")  # the one that the run started from
    states = {TRAINED: (run.state.params, run.state.state), RANDOM: jax.jit(run.objective.init)(key)}
    encoders = {}
    for name, state in states.items():
        encoders[name] = build.image_encoder(run.objective, *state)
    source = {"workdir": str(workdir), "step": int(run.state.step)}
    return Subjects(encoders, _size(run.config), source, workdir / "evaluate")


def _known(size: int | None) -> int:
    if size is None:
        raise InputError("It is not known on what size of images the encoder was trained; give --size.")
    return size


def _size(config: ConfigDict) -> int | None:
    try:
        return build.image_size(config)
    except InputError:
        return None  # what asks for it says so


def _of_weights(path: Path | None, step: int | None) -> Subjects:
    assert path is not None
    if step is not None:
        raise InputError("--step says which checkpoint of a run, and --weights names a file; give one of them.")
    network = read_and_tell(path)
    encoder = encoder_of(network)
    init = jax.jit(lambda key: combine(encoder.model.init(key), encoder.model.init_statistics()))
    random = encoder._replace(params=init(jax.random.key(0)))
    return Subjects(
        {TRAINED: encoder, RANDOM: random}, network.image_size, {"weights": str(path)}, path.parent / "evaluate"
    )


def write_results(path: Path, record: Mapping[str, Any]) -> None:
    """Write a protocol's results, whole or not at all.

    Raises:
        InputError: The file cannot be written; the sentence has the results, since they may have taken hours.
    """
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(record, indent=2, default=str) + "\n")
        temporary.replace(path)
    except OSError as error:
        found = json.dumps(record["results"])
        raise InputError(f"{path} cannot be written ({error.strerror}); what would be in it: {found}") from error


def _check_destination(path: Path) -> None:
    """Raise InputError where results could not be written, before anything is computed."""
    folder = path.parent
    while not folder.exists():  # nothing is made yet: what follows may still be refused
        folder = folder.parent
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); name another file with --output.") from error


def _check_finite(subjects: Subjects) -> None:
    """Raise InputError where trained weights are not numbers: some protocols would make a good score of that."""
    leaves = jax.tree_util.tree_leaves_with_path(subjects.encoders[TRAINED].params)
    bad = [jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in leaves if not _finite(leaf)]
    if bad:
        raise InputError(
            f"{subjects.source.get('workdir') or subjects.source['weights']} has weights that are not finite "
            f"({len(bad)} of {len(leaves)} arrays, {bad[0]} the first); take an earlier checkpoint or another file."
        )


def _finite(leaf: Any) -> bool:
    return not jnp.issubdtype(leaf.dtype, jnp.inexact) or bool(jnp.all(jnp.isfinite(leaf)))


def table(results: Mapping[str, Mapping[str, float]], *, shares: bool = True) -> str:
    """Return results by row and column as Markdown; a dash where an encoder lacks a metric.

    Args:
        results: Metrics by name, of each encoder by name.
        shares: Whether these are shares, given in per cent.
    """
    columns = list(dict.fromkeys(column for values in results.values() for column in values))
    width = max(len(name) for name in results)
    rows = [[" " * width, *columns], ["-" * width, *("-" * len(column) for column in columns)]]
    for name, values in results.items():
        cells = [_cell(values[column], shares) if column in values else "-" for column in columns]
        rows.append(
            [name.ljust(width), *(cell.rjust(len(column)) for cell, column in zip(cells, columns, strict=True))]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(value: float, share: bool) -> str:
    return f"{100 * value:.2f}" if share else f"{value:.3f}"
