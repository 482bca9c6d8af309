"""The part of a prepared video that a report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssljax.data.index import VideoIndex, find_videos
from ssljax.data.records import read_span
from ssljax.data.windows import part
from ssljax.errors import InputError

_MOST_FRAMES = 48
_MOST_SECONDS = 5.0


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
    frames, times = read_span(index, first, end, most=_MOST_FRAMES)
    unseen = first >= used[1] or end <= used[0]
    return Clip(index.name, frames, times, unseen)


def _span(index: VideoIndex, used: tuple[float, float]) -> tuple[float, float]:
    """Return the seconds after those used in training, or else the video's last."""
    length = float(index.times[-1]) + index.spacing
    if 0 < used[1] < length:
        return used[1], min(length, used[1] + _MOST_SECONDS)
    return max(0.0, length - _MOST_SECONDS), length
