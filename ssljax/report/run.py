"""`ssljax report`: from a run's folder to its page."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

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
from ssljax.report.figures import draw_curves, read_metrics
from ssljax.report.page import Figure, Table, write_page

_SAMPLES = 16
_INITIALISATIONS = 5
_METRICS = {
    "teacher_entropy": "teacher entropy (nats)",
    "center_norm": "norm of the centre",
    "teacher_information": "information in the targets (0 to 1)",
}
"""What is told of a run that tracks; of others, all that the objective measures."""

_NOTE = (
    f"Measured on the first {_SAMPLES} samples of the run's data, with what the objective logs while it trains; the "
    f"initialisation's is a mean over {_INITIALISATIONS} of them, with smallest and largest in brackets."
)
_TRACKS_NOTE = (
    "Consistency: how much better a tracked region matches itself in the next frame than it matches the other regions; "
    "0 is chance, and 1 is reached by distinct regions that are always found again. Overlap of two objects: the "
    "share of their patches that they have in common; 1 means that nothing tells them apart. Each is a mean over draws "
    f"of the heads that objects start from; the initialisation's, over {_INITIALISATIONS} of them, with smallest and "
    "largest in brackets. Masks held still are the first frame's, repeated: what standing still would score."
)


def write_report(
    workdir: Path,
    *,
    step: int | None = None,
    video: Path | None = None,
    seconds: Sequence[float] | None = None,
    links: Sequence[Path] = (),
) -> Path:
    """Write report/index.html in a run's folder, with its pictures, and return its path.

    It has curves and numbers of any run, and, of a ViT by DoRA or DINO, tracks in a prepared video. The trained
    networks are set beside those that the run started from.

    Args:
        workdir: Of the run.
        step: Which checkpoint; the newest by default.
        video: A prepared video; the run's first by default.
        seconds: Its part to show; by default what training left out at its end, or else its last seconds.
        links: Files to link.

    Raises:
        InputError: There is no such run, checkpoint, video or part of it, or a video to show of a run without tracks.
    """
    run = build.restore(workdir, step)
    missing = [str(link) for link in links if not link.exists()]
    if missing:
        raise InputError(f"--link {missing[0]}: no such file; give files that exist.")
    clip = _clip(run, video, seconds)
    folder = workdir / "report"
    folder.mkdir(exist_ok=True)
    draw_curves(read_metrics(workdir / "metrics.jsonl"), folder / "curves.png")
    curves = Figure("Training", "curves.png", "What the run logged, against the number of updates.")
    rows, figures = _compare(run, clip, folder)
    return write_page(
        folder,
        title=f"{type(run.objective).__name__} after {int(run.state.step)} updates",
        summary=_summary(clip),
        table=Table(("", "trained", "at random initialisation"), rows),
        notes=[_NOTE if clip is None else _TRACKS_NOTE],
        figures=[curves, *figures],
        command=_command(workdir, step, video, seconds),
        config=run.config.to_dict(),
        links=[(os.path.relpath(link, folder), link.name) for link in links],
    )


def _command(workdir: Path, step: int | None, video: Path | None, seconds: Sequence[float] | None) -> str:
    options = {"--step": step, "--video": video, "--seconds": seconds and " ".join(f"{second:g}" for second in seconds)}
    given = [f"{name} {value}" for name, value in options.items() if value is not None]
    return " ".join(["ssljax report --workdir", str(workdir), *given])


def _clip(run: build.Restored, video: Path | None, seconds: Sequence[float] | None) -> Clip | None:
    """Return the frames to show tracks in; None where the objective has none, or the run no prepared video."""
    data, name = run.config.data.to_dict(), type(run.objective).__name__
    if not (isinstance(run.objective, DoRA | DINO) and isinstance(run.objective.encoder.abstract, ViT)):
        if video is not None or seconds is not None:
            raise InputError(
                f"--video and --seconds choose where tracks are shown, and a report of this {name} has none."
            )
        return None
    if video is None and seconds is None and (not data.get("video") or data.get("source") == "stream"):
        return None
    return read_clip(data, video, seconds)


def _compare(run: build.Restored, clip: Clip | None, folder: Path) -> tuple[list[tuple[str, str, str]], list[Figure]]:
    """Return the table's rows and the pictures of the run's networks and of those that it started from."""
    objective, measure = run.objective, _measure(run)
    figures: list[Figure] = []
    columns: list[list[dict[str, float]]] = [[], []]
    states = [(0, "trained", (run.state.params, run.state.state))]
    init = jax.jit(objective.init)
    states += [
        (1, "random", init(rng.named(jax.random.key(run.config.seed + i), "init"))) for i in range(_INITIALISATIONS)
    ]
    for column, name, (params, state) in states:
        scores = measure(params, state)
        if clip is not None and isinstance(objective, DoRA | DINO):
            follow = objects.tracker(objective, build.image_encoder(objective, params, state), clip)
            if not columns[column]:  # of several initialisations the run's own is drawn
                tracks = follow(objects.draws_of_heads(objective)[0])
                figures += objects.draw(objective, tracks, clip, folder, name)
            scores |= objects.score(objective, follow)
        columns[column].append(scores)
    return [(title, _cell(columns[0], title), _cell(columns[1], title)) for title in columns[0][0]], figures


def _cell(scores: Sequence[Mapping[str, float]], title: str) -> str:
    values = [score[title] for score in scores]
    spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def _summary(clip: Clip | None) -> str:
    if clip is None:
        return "What the run logged, and its numbers beside those that it started from."
    seen = ", which training never used." if clip.unseen else "."
    return f"{clip.name}, seconds {clip.times[0]:.1f} to {clip.times[-1]:.1f}{seen}"


def _measure(run: build.Restored) -> Callable[[PyTree, PyTree], dict[str, float]]:
    """Return a function from parameters and state to the objective's metrics of the first samples of the run."""
    data = build.dataset(run.config)
    items = [data[position] for position in range(min(_SAMPLES, run.config.batch_size))]
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
        return {name.replace("_", " "): float(value) for name, value in metrics.items()}

    return measure
