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
from ssljax.ops import keys as rng
from ssljax.ops.arrays import Array
from ssljax.report import objects
from ssljax.report.clip import Clip, read_clip
from ssljax.report.metrics import Lines, read_metrics, spoken
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


def study(workdir: Path, run: build.Restored, clip: Clip | None, pictures: Path) -> Study:
    """Return what there is to tell of a run, with its pictures drawn into a folder.

    Args:
        workdir: Of the run.
        run: The checkpoint to show.
        clip: What to show tracks in; see `choose_clip`.
        pictures: A folder, made if need be.

    Raises:
        InputError: The run's data cannot be used, or its metrics or a file of results are damaged.
    """
    metrics, results = read_metrics(workdir / "metrics.jsonl"), read_results(workdir / "evaluate")
    numbers = run_numbers(workdir, run, metrics)
    pictures.mkdir(parents=True, exist_ok=True)
    trained, random, figures = _compare(run, clip, pictures)
    figures += draw_pictures(run, clip, pictures)
    return Study(workdir, run, metrics, numbers, results, trained, random, clip, figures)


def tracks(run: build.Restored) -> bool:
    """Return whether a run's encoder can be shown to track."""
    return isinstance(run.objective, DoRA | DINO) and isinstance(run.objective.encoder.abstract, ViT)


def choose_clip(run: build.Restored, video: Path | None, seconds: Sequence[float] | None) -> Clip | None:
    """Return the frames to show tracks in; None where the objective has none, or the run no prepared video.

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
    if video is None and seconds is None and (not data.get("video") or data.get("source") == "stream"):
        return None
    return read_clip(data, video, seconds)


def _compare(run: build.Restored, clip: Clip | None, folder: Path) -> tuple[dict[str, float], Scores, list[Figure]]:
    """Return the scores of the run's networks, those of several initialisations, and pictures of tracks."""
    objective, measure = run.objective, _measure(run)
    figures: list[Figure] = []
    scores: tuple[Scores, Scores] = ([], [])
    states = [(0, "trained", (run.state.params, run.state.state))]
    init = jax.jit(objective.init)
    states += [
        (1, "random", init(rng.named(jax.random.key(run.config.seed + i), "init"))) for i in range(INITIALISATIONS)
    ]
    for which, name, (params, state) in states:
        found = measure(params, state)
        if clip is not None and isinstance(objective, DoRA | DINO):
            follow = objects.tracker(objective, build.image_encoder(objective, params, state), clip)
            if not scores[which]:  # of several initialisations the run's own is drawn
                tracked = follow(objects.draws_of_heads(objective)[0])
                figures += objects.draw(objective, tracked, clip, folder, name)
            found |= objects.score(objective, follow)
        scores[which].append(found)
    return scores[0][0], scores[1], figures


def _measure(run: build.Restored) -> Callable[[PyTree, PyTree], dict[str, float]]:
    """Return a function from parameters and state to the objective's metrics of the first samples of the run."""
    data = build.dataset(run.config)
    items = [data[position] for position in range(min(SAMPLES, run.config.batch_size))]
    batch = {name: np.stack([item[name] for item in items]) for name in items[0]}
    key = rng.named(jax.random.key(run.config.seed), "report")

    @jax.jit
    def loss(params: PyTree, state: PyTree) -> dict[str, Array]:
        out = run.objective.loss(params, state, batch, key, run.state.step)
        return {"loss": out.loss, **out.metrics}

    def measure(params: PyTree, state: PyTree) -> dict[str, float]:
        metrics = jax.device_get(loss(params, state))
        if isinstance(run.objective, DoRA | DINO):
            return {title: float(metrics[name]) for name, title in _METRICS.items()}
        return {spoken(name): float(value) for name, value in metrics.items()}

    return measure
