"""What a run's encoder tracks in a clip, scored and drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ssljax.evaluate.tracking import Tracks, fit_frames, track_objects
from ssljax.evaluate.tracks import TrackConsistency, choices_of_heads, mean_of, scores_of
from ssljax.objectives.base import Encoder
from ssljax.objectives.dino import DINO
from ssljax.objectives.dora import DoRA
from ssljax.report.clip import Clip
from ssljax.report.figures import draw_animation, draw_tracks
from ssljax.report.page import Figure

# Tracks are drawn and judged at twice the training's resolution, where the grid of patches shows shapes.
_ZOOM = TrackConsistency.zoom
_DRAWS_OF_HEADS = 4
_TITLES = {
    "tracks_region": "consistency of tracks, regions (-2 to 2)",
    "tracks_region_still": "regions, masks held still",
    "tracks_patch": "consistency of tracks, patches (-1 to 1)",
    "tracks_patch_still": "patches, masks held still",
    "tracks_overlap": "overlap of two objects (0 to 1)",
}


def draws_of_heads(objective: DoRA | DINO) -> list[tuple[int, ...]]:
    """Return the first few choices of heads for the objects to start from; three objects where the run has none."""
    heads = objective.encoder.abstract.heads
    objects = objective.objects if isinstance(objective, DoRA) else min(3, heads)
    return choices_of_heads(heads, objects, _DRAWS_OF_HEADS)


def tracker(objective: DoRA | DINO, encoder: Encoder, clip: Clip) -> Callable[[Sequence[int]], Tracks]:
    """Return a function from heads to the tracks that start from them, with the run's settings if it tracks at all."""
    model = objective.encoder.abstract
    frames = fit_frames(clip.frames, size=_ZOOM * model.image_size, patch_size=model.patch_size)
    names = {"epsilon": "epsilon", "iterations": "iterations", "layer": "tracker_layer"}
    settings = {to: getattr(objective, name) for to, name in names.items()} if isinstance(objective, DoRA) else {}
    return lambda heads: track_objects(encoder, frames, heads, **settings)


def score(objective: DoRA | DINO, follow: Callable[[Sequence[int]], Tracks]) -> dict[str, float]:
    """Return the label-free scores, each a mean over draws of heads that start where the picture does.

    `TrackConsistency` starts anew in each part of a clip, so its numbers are others.
    """
    choices = draws_of_heads(objective)
    if len(choices[0]) < 2:
        return {}
    means = mean_of([scores_of(follow(heads)) for heads in choices])
    return {title: means[name] for name, title in _TITLES.items()}


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
