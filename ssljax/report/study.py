"""All that a report tells of one run, before it is laid out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from ssljax import build
from ssljax.errors import InputError
from ssljax.models.vit import ViT
from ssljax.objectives.base import PyTree
from ssljax.objectives.dino import DINO
from ssljax.objectives.dora import DoRA
from ssljax.objectives.imported import Imported
from ssljax.ops import keys as rng
from ssljax.ops.arrays import Array
from ssljax.report import objects
from ssljax.report.clip import Clip, read_clip
from ssljax.report.metrics import Lines, logged, read_metrics
from ssljax.report.numbers import run_numbers
from ssljax.report.page import Figure
from ssljax.report.pictures import draw_pictures
from ssljax.report.results import Evaluated, read_results

SAMPLES = 16
INITIALISATIONS = 5
_METRICS = {
    "teacher_entropy": "teacher entropy (nats)",
    "center_norm": "norm of the centre",
    "teacher_information": "information in the targets (0 to 1)",
}
"""What is told of a run that tracks; of others, all that the objective measures."""

Scores = list[dict[str, float]]

_PLACES = ("video", "data", "data_dir")


class Samples(NamedTuple):
    """The first samples of a run's own data.

    Attributes:
        items: What the objective takes, none where the data cannot be read.
        lacking: Why that is, as a sentence for readers of the page; else empty.
    """

    items: Sequence[Mapping[str, np.ndarray]]
    lacking: str


class Study(NamedTuple):
    """A run as a report shows it.

    Attributes:
        workdir: Its folder.
        run: The checkpoint shown.
        metrics: What it logged.
        numbers: How far, how fast, on what, as text by name.
        results: What `ssljax evaluate` found.
        trained: The checkpoint's scores.
        random: Those of several initialisations.
        clip: What tracks are shown in, if there are any.
        figures: Pictures of what it learned.
        lacking: What the page lacks and why, where the run's data cannot be read; else empty.
    """

    workdir: Path
    run: build.Restored
    metrics: Lines
    numbers: Mapping[str, str]
    results: Sequence[Evaluated]
    trained: dict[str, float]
    random: Scores
    clip: Clip | None
    figures: Sequence[Figure]
    lacking: str


def study(workdir: Path, run: build.Restored, samples: Samples, clip: Clip | None, pictures: Path) -> Study:
    """Return what there is to tell of a run, with its pictures drawn into a folder.

    Args:
        workdir: Of the run.
        run: The checkpoint to show.
        samples: See `read_samples`.
        clip: What to show tracks in; see `choose_clip`.
        pictures: A folder, made if need be.

    Raises:
        InputError: The run's metrics or a file of results are damaged.
    """
    metrics, results = read_metrics(workdir / "metrics.jsonl"), read_results(workdir / "evaluate")
    numbers = run_numbers(workdir, run, metrics)
    pictures.mkdir(parents=True, exist_ok=True)
    trained, random, figures = _compare(run, samples, clip, pictures)
    figures += draw_pictures(run, clip, pictures, own=bool(samples.items))
    return Study(workdir, run, metrics, numbers, results, trained, random, clip, figures, samples.lacking)


def read_samples(workdir: Path, run: build.Restored) -> Samples:
    """Return the first samples of a run's data, or why they cannot be read: a page tells enough without them.

    Raises:
        InputError: The run was imported and never trained.
    """
    if isinstance(run.objective, Imported):
        raise InputError(
            f"{workdir} holds imported weights, of whose training nothing is known; use ssljax evaluate or show."
        )
    try:
        data = build.dataset(run.config)
        return Samples([data[position] for position in range(min(SAMPLES, run.config.batch_size))], "")
    except (InputError, OSError) as error:
        given = {key: run.config.data[key] for key in ("name", *_PLACES) if run.config.data.get(key)}
        values = {key: value if isinstance(value, str) else ", ".join(value) for key, value in given.items()}
        return Samples(
            [],
            f"{workdir}: no scores on samples and no pictures of the run's own data, which cannot be read "
            f"({'; '.join(f'data.{key}: {value}' for key, value in values.items())}): {str(error).rstrip('.')}. "
            "A relative path counts from the folder in which the page is made.",
        )


def tracks(run: build.Restored) -> bool:
    """Return whether a run's encoder can be shown to track."""
    return isinstance(run.objective, DoRA | DINO) and isinstance(run.objective.encoder.abstract, ViT)


def choose_clip(
    run: build.Restored, samples: Samples, video: Path | None, seconds: Sequence[float] | None
) -> Clip | None:
    """Return the frames to show tracks in; None where the objective has none, or the run no prepared video to read.

    Raises:
        InputError: The video or its part is missing, or one is given where the objective has no tracks.
    """
    data, name = run.config.data.to_dict(), type(run.objective).__name__
    if not tracks(run):
        if video is not None or seconds is not None:
            raise InputError(
                f"--video and --seconds choose where tracks are shown, and a report of this {name} has none."
            )
        return None
    if video is None and samples.lacking:
        return None
    if video is None and seconds is None and (not data.get("video") or data.get("source") == "stream"):
        return None
    return read_clip(data, video, seconds)


def _compare(
    run: build.Restored, samples: Samples, clip: Clip | None, folder: Path
) -> tuple[dict[str, float], Scores, list[Figure]]:
    """Return the scores of the run's networks, those of several initialisations, and pictures of tracks."""
    figures: list[Figure] = []
    if not samples.items and clip is None:
        return {}, [], figures
    objective, measure = run.objective, _measure(run, samples.items)
    scores: tuple[Scores, Scores] = ([], [])
    states = [(0, "trained", (run.state.params, run.state.state))]
    init = jax.jit(objective.init)
    states += [
        (1, "random", init(rng.named(jax.random.key(run.config.seed + i), "init"))) for i in range(INITIALISATIONS)
    ]
    for which, name, (params, state) in states:
        found = measure(params, state) if samples.items else {}
        if clip is not None and isinstance(objective, DoRA | DINO):
            follow = objects.tracker(objective, build.image_encoder(objective, params, state), clip)
            if not scores[which]:  # of several initialisations the run's own is drawn
                tracked = follow(objects.draws_of_heads(objective)[0])
                figures += objects.draw(objective, tracked, clip, folder, name)
            found |= objects.score(objective, follow)
        scores[which].append(found)
    return scores[0][0], scores[1], figures


def _measure(
    run: build.Restored, items: Sequence[Mapping[str, np.ndarray]]
) -> Callable[[PyTree, PyTree], dict[str, float]]:
    """Return a function from parameters and state to the objective's metrics of some samples."""
    batch = {name: np.stack([item[name] for item in items]) for name in (items[0] if items else ())}
    key = rng.named(jax.random.key(run.config.seed), "report")

    @jax.jit
    def loss(params: PyTree, state: PyTree) -> dict[str, Array]:
        out = run.objective.loss(params, state, batch, key, run.state.step)
        return {"loss": out.loss, **out.metrics}

    def measure(params: PyTree, state: PyTree) -> dict[str, float]:
        metrics = jax.device_get(loss(params, state))
        if isinstance(run.objective, DoRA | DINO):
            return {title: float(metrics[name]) for name, title in _METRICS.items()}
        return {logged(name): float(value) for name, value in metrics.items()}

    return measure
