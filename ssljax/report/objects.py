"""What a run's encoder tracks in a clip, scored and drawn."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ssljax.evaluate.tracking import Tracks, consistency, fit_frames, overlap, track_objects
from ssljax.objectives.base import Encoder
from ssljax.objectives.dino import DINO
from ssljax.objectives.dora import DoRA
from ssljax.report.clip import Clip
from ssljax.report.figures import draw_animation, draw_tracks
from ssljax.report.page import Figure

# Tracks are drawn and judged at twice the training's resolution, where the grid of patches shows shapes.
_ZOOM = 2
_DRAWS_OF_HEADS = 4


def draws_of_heads(objective: DoRA | DINO) -> list[tuple[int, ...]]:
    """Return the first few choices of heads for the objects to start from; three objects where the run has none."""
    heads = objective.encoder.abstract.heads
    objects = objective.objects if isinstance(objective, DoRA) else min(3, heads)
    return list(itertools.islice(itertools.combinations(range(heads), objects), _DRAWS_OF_HEADS))


def tracker(objective: DoRA | DINO, encoder: Encoder, clip: Clip) -> Callable[[Sequence[int]], Tracks]:
    """Return a function from heads to the tracks that start from them, with the run's settings if it tracks at all."""
    model = objective.encoder.abstract
    frames = fit_frames(clip.frames, size=_ZOOM * model.image_size, patch_size=model.patch_size)
    names = {"epsilon": "epsilon", "iterations": "iterations", "layer": "tracker_layer"}
    settings = {to: getattr(objective, name) for to, name in names.items()} if isinstance(objective, DoRA) else {}
    return lambda heads: track_objects(encoder, frames, heads, **settings)


def score(objective: DoRA | DINO, follow: Callable[[Sequence[int]], Tracks]) -> dict[str, float]:
    """Return the label-free scores, each a mean over draws of heads."""
    all_scores: list[dict[str, float]] = []
    for heads in draws_of_heads(objective):
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


def draw(objective: DoRA | DINO, tracks: Tracks, clip: Clip, folder: Path, name: str) -> list[Figure]:
    """Draw the tracks of the encoder `name`, "trained" or "random", into a folder, and return what was drawn."""
    model = objective.encoder.abstract
    fine = fit_frames(clip.frames, size=2 * _ZOOM * model.image_size, patch_size=2 * model.patch_size)
    shown = (fine, tracks.maps, tracks.masks, tracks.grid)
    draw_tracks(*shown, folder / f"tracks_{name}.png", times=clip.times.tolist())
    if name != "trained":
        caption = "The same, of the encoder that the run started from."
        return [Figure("Tracks at random initialisation", folder / f"tracks_{name}.png", caption)]
    spacing = float(np.median(np.diff(clip.times)))
    draw_animation(*shown, folder / "tracks.gif", frames_per_second=1 / max(spacing, 0.04))
    caption = (
        "Objects are discovered in the first frame and followed through the others. A row an object: its patches are "
        "outlined, the colour inside is its attention, the rest is dimmed."
    )
    return [
        Figure("What it discovers and tracks", folder / f"tracks_{name}.png", caption),
        Figure("The same, moving", folder / "tracks.gif", "The video, and beside it what each object keeps of it."),
    ]
