"""`ssljax report`: from a run's folder to its page."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ssljax import build
from ssljax.data.index import VideoIndex, find_videos
from ssljax.data.records import read_frames
from ssljax.data.windows import part
from ssljax.errors import InputError
from ssljax.objectives.base import Encoder, PyTree
from ssljax.objectives.dino import DINO
from ssljax.objectives.dora import DoRA
from ssljax.ops import keys as rng
from ssljax.report.figures import draw_animation, draw_curves, draw_tracks, read_metrics
from ssljax.report.page import Figure, Table, write_page
from ssljax.report.tracks import Tracks, consistency, fit_frames, overlap, track_objects

_MOST_FRAMES = 48
_MOST_SECONDS = 5.0
_SAMPLES = 16
# Tracks are drawn and judged at twice the training's resolution, where the grid of patches shows shapes.
_ZOOM = 2
_INITIALISATIONS = 5
_DRAWS_OF_HEADS = 4
_METRICS = {
    "teacher_entropy": "teacher entropy (nats)",
    "center_norm": "norm of the centre",
    "teacher_information": "information in the targets (0 to 1)",
}


_NOTE = (
    "Consistency: how much better a tracked region matches itself in the next frame than it matches the other regions; "
    "0 is chance, and 1 is reached by distinct regions that are always found again. Overlap of two objects: the "
    "share of their patches that they have in common; 1 means that nothing tells them apart. Each is a mean over draws "
    f"of the heads that objects start from; the initialisation's, over {_INITIALISATIONS} of them, with smallest and "
    "largest in brackets. Masks held still are the first frame's, repeated: what standing still would score."
)


class Clip(NamedTuple):
    """What the report shows.

    Attributes:
        name: Of the video.
        frames: uint8 [t, h, w, 3].
        times: Seconds [t].
        unseen: Whether training used none of them.
    """

    name: str
    frames: np.ndarray
    times: np.ndarray
    unseen: bool


def write_report(
    workdir: Path,
    *,
    step: int | None = None,
    video: Path | None = None,
    seconds: Sequence[float] | None = None,
    links: Sequence[Path] = (),
) -> Path:
    """Write report/index.html in a run's folder, with its pictures, and return its path.

    The encoder is set beside itself at the random initialisation that the run started from.

    Args:
        workdir: Of the run.
        step: Which checkpoint; the newest by default.
        video: A prepared video; the run's first by default.
        seconds: Its part to show; by default what training left out at its end, or else its last seconds.
        links: Files to link.

    Raises:
        InputError: There is no such run, checkpoint, video or part of it, or its encoder has no patches to track.
    """
    run = build.restore(workdir, step)
    if not isinstance(run.objective, DoRA | DINO):
        raise InputError(f"{workdir} is a run of {type(run.objective).__name__}; reports show those of DoRA and DINO.")
    missing = [str(link) for link in links if not link.exists()]
    if missing:
        raise InputError(f"--link {missing[0]}: no such file; give files that exist.")
    clip = read_clip(run.config.data.to_dict(), video, seconds)
    folder = workdir / "report"
    folder.mkdir(exist_ok=True)
    draw_curves(read_metrics(workdir / "metrics.jsonl"), folder / "curves.png")
    curves = Figure("Training", "curves.png", "What the run logged, against the number of updates.")
    rows, figures = _compare(run, run.objective, clip, folder)
    return write_page(
        folder,
        title=f"{type(run.objective).__name__} after {int(run.state.step)} updates",
        summary=_summary(clip),
        table=Table(("", "trained", "at random initialisation"), rows),
        notes=[_NOTE],
        figures=[curves, *figures],
        command=_command(workdir, step, video, seconds),
        config=run.config.to_dict(),
        links=[(os.path.relpath(link, folder), link.name) for link in links],
    )


def _command(workdir: Path, step: int | None, video: Path | None, seconds: Sequence[float] | None) -> str:
    options = {"--step": step, "--video": video, "--seconds": seconds and " ".join(f"{second:g}" for second in seconds)}
    given = [f"{name} {value}" for name, value in options.items() if value is not None]
    return " ".join(["ssljax report --workdir", str(workdir), *given])


def _compare(
    run: build.Restored, objective: DoRA | DINO, clip: Clip, folder: Path
) -> tuple[list[tuple[str, str, str]], list[Figure]]:
    """Return the table's rows and the pictures of the run's encoder and of the one that it started from."""
    measure = _measure(run)
    figures: list[Figure] = []
    columns: list[list[dict[str, float]]] = [[], []]
    states = [(0, "trained", (run.state.params, run.state.state))]
    init = jax.jit(objective.init)
    states += [
        (1, "random", init(rng.named(jax.random.key(run.config.seed + i), "init"))) for i in range(_INITIALISATIONS)
    ]
    for column, name, (params, state) in states:
        follow = _tracker(objective, objective.encoders(params, state)["image"], clip)
        if not columns[column]:  # of several initialisations the run's own is drawn
            figures += _draw(objective, follow(_draws_of_heads(objective)[0]), clip, folder, name)
        columns[column].append(measure(params, state) | _score(objective, follow))
    return [(title, _cell(columns[0], title), _cell(columns[1], title)) for title in columns[0][0]], figures


def _cell(scores: Sequence[Mapping[str, float]], title: str) -> str:
    values = [score[title] for score in scores]
    spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def read_clip(data: Mapping[str, Any], video: Path | None, seconds: Sequence[float] | None) -> Clip:
    """Return the frames to show, evenly spaced and at most 48.

    Args:
        data: The run's `config.data`.
        video: See `write_report`.
        seconds: See `write_report`.

    Raises:
        InputError: The video is missing, or has fewer than two frames in that part.
    """
    trained_on = data.get("video") or ()
    trained_on = [trained_on] if isinstance(trained_on, str) else trained_on
    if video is None and not trained_on:
        raise InputError("The run has no video to show; give one with --video.")
    index = find_videos(trained_on if video is None else video)[0]
    folder = index.folder.resolve()
    own = any(folder.is_relative_to(Path(place).resolve()) for place in trained_on)
    used = part(index, data.get("seconds")) if own else (0.0, 0.0)
    first, end = _span(index, used) if seconds is None else seconds
    times = index.times[(index.times >= first) & (index.times < end)]
    if len(times) < 2:
        raise InputError(
            f"{index.folder} has {len(times)} frames in seconds {first:g} to {end:g} of its {index.duration:.1f}; give "
            "another part with --seconds."
        )
    times = times[:: -(-len(times) // _MOST_FRAMES)]
    frames, times = read_frames(index.folder, times.tolist())
    unseen = first >= used[1] or end <= used[0]
    return Clip(index.name, frames, times, unseen)


def _summary(clip: Clip) -> str:
    seen = ", which training never used." if clip.unseen else "."
    return f"{clip.name}, seconds {clip.times[0]:.1f} to {clip.times[-1]:.1f}{seen}"


def _span(index: VideoIndex, used: tuple[float, float]) -> tuple[float, float]:
    """Return the seconds after those used in training, or else the video's last."""
    length = float(index.times[-1]) + index.spacing
    if 0 < used[1] < length:
        return used[1], min(length, used[1] + _MOST_SECONDS)
    return max(0.0, length - _MOST_SECONDS), length


def _draws_of_heads(objective: DoRA | DINO) -> list[tuple[int, ...]]:
    """Return the first few choices of heads for the objects to start from; three objects where the run has none."""
    heads = objective.encoder.abstract.heads
    objects = objective.objects if isinstance(objective, DoRA) else min(3, heads)
    return list(itertools.islice(itertools.combinations(range(heads), objects), _DRAWS_OF_HEADS))


def _tracker(objective: DoRA | DINO, encoder: Encoder, clip: Clip) -> Callable[[Sequence[int]], Tracks]:
    """Return a function from heads to the tracks that start from them, with the run's settings if it tracks at all."""
    model = objective.encoder.abstract
    frames = fit_frames(clip.frames, size=_ZOOM * model.image_size, patch_size=model.patch_size)
    names = {"epsilon": "epsilon", "iterations": "iterations", "layer": "tracker_layer"}
    settings = {to: getattr(objective, name) for to, name in names.items()} if isinstance(objective, DoRA) else {}
    return lambda heads: track_objects(encoder, frames, heads, **settings)


def _measure(run: build.Restored) -> Callable[[PyTree, PyTree], dict[str, float]]:
    """Return a function from parameters and state to the objective's metrics of the first windows of the run."""
    data = build.dataset(run.config)
    items = [data[position] for position in range(min(_SAMPLES, run.config.batch_size))]
    batch = {name: np.stack([item[name] for item in items]) for name in items[0]}
    key = rng.named(jax.random.key(run.config.seed), "report")
    loss = jax.jit(lambda params, state: run.objective.loss(params, state, batch, key, run.state.step).metrics)

    def measure(params: PyTree, state: PyTree) -> dict[str, float]:
        metrics = jax.device_get(loss(params, state))
        return {title: float(metrics[name]) for name, title in _METRICS.items()}

    return measure


def _score(objective: DoRA | DINO, follow: Callable[[Sequence[int]], Tracks]) -> dict[str, float]:
    """Return the label-free scores, each a mean over draws of heads."""
    all_scores: list[dict[str, float]] = []
    for heads in _draws_of_heads(objective):
        tracks = follow(heads)
        if len(heads) < 2:
            return {}
        scores = consistency(tracks.features, tracks.masks)
        still = consistency(tracks.features, np.broadcast_to(tracks.masks[:1], tracks.masks.shape))
        all_scores.append(
            {
                "consistency of tracks, regions (-2 to 2)": scores.region,
                "regions, masks held still": still.region,
                "consistency of tracks, patches (-1 to 1)": scores.patch,
                "patches, masks held still": still.patch,
                "overlap of two objects (0 to 1)": overlap(tracks.masks),
            }
        )
    return {title: float(np.mean([scores[title] for scores in all_scores])) for title in all_scores[0]}


def _draw(objective: DoRA | DINO, tracks: Tracks, clip: Clip, folder: Path, name: str) -> list[Figure]:
    model = objective.encoder.abstract
    fine = fit_frames(clip.frames, size=2 * _ZOOM * model.image_size, patch_size=2 * model.patch_size)
    shown = (fine, tracks.maps, tracks.masks, tracks.grid)
    draw_tracks(*shown, folder / f"tracks_{name}.png", times=clip.times.tolist())
    if name != "trained":
        caption = "The same, of the encoder that the run started from."
        return [Figure("Tracks at random initialisation", f"tracks_{name}.png", caption)]
    spacing = float(np.median(np.diff(clip.times)))
    draw_animation(*shown, folder / "tracks.gif", frames_per_second=1 / max(spacing, 0.04))
    caption = (
        "Objects are discovered in the first frame and followed through the others. A row an object: its patches are "
        "outlined, the colour inside is its attention, the rest is dimmed."
    )
    return [
        Figure("What it discovers and tracks", f"tracks_{name}.png", caption),
        Figure("The same, moving", "tracks.gif", "The video, and beside it what each object keeps of it."),
    ]
