"""Single frames of prepared videos, for objectives that learn from images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssljax.data.windows import Windows


class Frames:
    """Every stored frame of prepared videos as an image, in a global order: infinite, random access.

    Args:
        video: As in `Windows`.
        size: Side of the square canvas in pixels.
        seed: Of order and crops.
        options: The other arguments of `Windows` (`weights`, `seconds`, `stride`, `scale`, `ratio`, `antialias`,
            `bad_share`).
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
        self.checksum = self._windows.checksum

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        """Return {"image": uint8 [size, size, 3], "position": uint32 []}."""
        window = self._windows[position]
        return {"image": window["frames"][0], "position": window["position"]}

    def describe(self, position: int) -> dict[str, Any]:
        """Return where the frame lies; see `Windows.describe`."""
        return self._windows.describe(position)
