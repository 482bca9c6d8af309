"""Single frames of prepared videos, for objectives that learn from images."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssljax.data.resident import Plans
from ssljax.data.windows import Windows


class Frames:
    """Every stored frame of prepared videos as an image, in a global order: infinite, random access.

    Args:
        video: As in `Windows`.
        size: Side of the square canvas in pixels.
        seed: Of order and crops.
        options: The other arguments of `Windows` (`source`, `stream`, `weights`, `seconds`, `stride`, `scale`, `ratio`,
            `reuse`, `antialias`, `bad_share`).
    """

    def __init__(
        self,
        *,
        video: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        size: int,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self._windows = Windows(video=video, frames=1, gap=1.0, size=size, seed=seed, **options)
        self.checksum, self.reuse, self.damage = self._windows.checksum, self._windows.reuse, self._windows.damage

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        """Return {"image": uint8 [size, size, 3], "position": uint32 []}."""
        return self.read([position])[0]

    def read(self, positions: Sequence[int]) -> list[dict[str, np.ndarray]]:
        """Return the samples at `positions`, all of one group; see `Windows.read`."""
        windows = self._windows.read(positions)
        return [{"image": window["frames"][0], "position": window["position"]} for window in windows]

    @functools.cached_property
    def plans(self) -> Plans | None:
        """Return what puts the frames on the devices; see `Windows`."""
        return Plans(self._windows, image=True) if self._windows.source == "device" else None

    @property
    def in_process(self) -> bool:
        """Return whether it cannot be read in worker processes; see `Windows`."""
        return self._windows.in_process

    def close(self) -> None:
        """Stop what decodes in the background; see `Windows`."""
        self._windows.close()

    def where(self, position: int) -> str:
        """Return where the frame lies, in words; see `Windows.where`."""
        return self._windows.where(position)

    def describe(self, position: int) -> dict[str, Any]:
        """Return where the frame lies; see `Windows.describe`."""
        return self._windows.describe(position)
