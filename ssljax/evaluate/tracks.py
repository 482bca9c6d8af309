"""Consistency of tracks in a video, without labels: a score to choose checkpoints by."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssljax.data.index import VideoIndex, find_videos
from ssljax.data.records import read_span
from ssljax.data.windows import part
from ssljax.errors import InputError
from ssljax.evaluate.result import Result
from ssljax.evaluate.tracking import Tracks, consistency, fit_frames, overlap, track_objects
from ssljax.models.vit import ViT
from ssljax.objectives.base import Encoder


class TrackConsistency:
    """How well what a ViT discovers in a frame of a video is found again in those that follow, without labels.

    The video is cut into parts of equal length. Objects start from attention heads in each part's first frame and are
    followed to its last as DoRA's teacher follows them, see `track_objects`: no single frame decides, in which all
    objects may happen to be one. The scores are means over the parts: "tracks_region" and "tracks_patch", see
    `consistency`; "tracks_region_still" and "tracks_patch_still", the same with the first frame's masks held still,
    which a scene that hardly moves scores as well; and "tracks_overlap", see `overlap`, 1 where all objects are one.

    Args:
        video: A prepared video.
        size: Of the frames' shorter side in pixels; `zoom` times what the encoder was trained on shows finer shapes.
        seconds: The part (first, end) of the video, negative ones from its end, None for its own.
        frames: How many at most in all, evenly spaced; of more that are stored every second or third, ..., is read.
        objects: How many are followed.
        draws: Parts, each started from another choice of heads: the combinations in order, and again from the first
            where there are no more. Fewer where a part would have less than 2 frames; frames left over are not used.
        epsilon: Of Sinkhorn-Knopp.
        iterations: Of Sinkhorn-Knopp.
        layer: The block whose attention, queries and keys are used.

    Raises:
        InputError: The video cannot be used, or a number is too small; and when it is called, the encoder is no ViT
            or has fewer heads than objects.
    """

    takes_pixels = False
    zoom = 2
    """Times the size that the encoder was trained on: `size` where none is given."""

    def __init__(
        self,
        *,
        video: str,
        size: int,
        seconds: Sequence[float | None] = (-5.0, None),
        frames: int = 48,
        objects: int = 3,
        draws: int = 4,
        epsilon: float = 0.05,
        iterations: int = 30,
        layer: int = -1,
    ) -> None:
        if not video:
            raise InputError("Tracks need a video; name the folder that `ssljax prepare video` made.")
        if frames < 2 or objects < 2 or draws < 1 or iterations < 1 or not 0 < epsilon < math.inf:
            raise InputError(
                f"frames is {frames}, objects {objects}, draws {draws}, iterations {iterations} and epsilon {epsilon}; "
                "give at least 2 frames and objects, 1 draw and iteration, and a finite epsilon above 0."
            )
        index = _only_video(video)
        self._frames, self._times = in_parts(*read_span(index, *part(index, seconds), most=frames), draws)
        self._size, self._objects = size, objects
        self._tracker: dict[str, Any] = {"epsilon": epsilon, "iterations": iterations, "layer": layer}
        span = [float(self._times[0, 0]), float(self._times[-1, -1])]
        self.data = {"video": video, "frames": self._times.size, "seconds": span, "checksum": index.checksum}

    def check(self, encoder: Encoder, mesh: jax.sharding.Mesh) -> None:
        """Raise InputError where an encoder cannot be asked; its parameters may be shapes."""
        model = getattr(encoder.model, "abstract", None)
        if not isinstance(model, ViT):
            raise InputError("Tracks start from a ViT's attention; this encoder is none: take another protocol or run.")
        if model.heads < self._objects:
            raise InputError(f"The encoder has {model.heads} heads for {self._objects} objects; give fewer objects.")
        rows, columns = fit_frames(self._frames[0, :1], size=self._size, patch_size=model.patch_size).shape[1:3]
        image = jax.ShapeDtypeStruct((1, rows, columns, 3), jnp.float32)
        jax.eval_shape(functools.partial(encoder.model, probe=self._tracker["layer"]), encoder.params, image)

    def __call__(self, encoder: Encoder, mesh: jax.sharding.Mesh) -> Result:
        """Return the scores, and as details each part's, with its seconds (first, last) and its heads."""
        self.check(encoder, mesh)
        model = encoder.model.abstract
        choices = itertools.cycle(choices_of_heads(model.heads, self._objects, len(self._frames)))
        scores, details = [], []
        with jax.set_mesh(mesh):
            for stored, times, heads in zip(self._frames, self._times, choices, strict=False):
                frames = fit_frames(stored, size=self._size, patch_size=model.patch_size)
                scores.append(scores_of(track_objects(encoder, frames, heads, **self._tracker)))
                seconds = [float(times[0]), float(times[-1])]
                details.append({"seconds": seconds, "heads": list(heads), **scores[-1]})
        return Result(mean_of(scores), {"parts": details}, shares=False)


def _only_video(place: str) -> VideoIndex:
    found = find_videos(place)
    if len(found) > 1:
        raise InputError(f"{place} holds {len(found)} videos; name one of them, such as {found[0].folder}.")
    return found[0]


def in_parts(frames: np.ndarray, times: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return frames [t, h, w, 3] as parts of equal length, [p, t // p, h, w, 3], and times [t] likewise.

    There are p parts, `most` or the fewer that leave each 2 frames; the last t mod p frames are left out.
    """
    number = min(most, len(times) // 2)
    length = len(times) // number
    frames, times = frames[: number * length], times[: number * length]
    return frames.reshape(number, length, *frames.shape[1:]), times.reshape(number, length)


def choices_of_heads(heads: int, objects: int, draws: int) -> list[tuple[int, ...]]:
    """Return the first few choices of so many of the heads, numbered from 0."""
    return list(itertools.islice(itertools.combinations(range(heads), objects), draws))


def scores_of(tracks: Tracks) -> dict[str, float]:
    """Return the scores of tracks by the names that `TrackConsistency` gives them."""
    moving = consistency(tracks.features, tracks.masks)
    still = consistency(tracks.features, np.broadcast_to(tracks.masks[:1], tracks.masks.shape))
    return {
        "tracks_region": moving.region,
        "tracks_region_still": still.region,
        "tracks_patch": moving.patch,
        "tracks_patch_still": still.patch,
        "tracks_overlap": overlap(tracks.masks),
    }


def mean_of(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each score."""
    return {name: float(np.mean([each[name] for each in scores])) for name in scores[0]}
