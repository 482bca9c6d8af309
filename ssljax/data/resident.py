"""Windows that are cut on the accelerator: here are the frames to put there, and where each window lies in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from ssljax.data.windows import Windows


class Plans:
    """Where the windows of a data set lie instead of their pixels: its order and its boxes, some bytes a window.

    windows: the data set. image: whether its samples are single frames, "image" instead of "frames".

    The frames that any window uses are numbered from 0 to `frames` - 1, whatever video they are of. Windows that share
    their frames (`reuse`) do so here too. There is no replacing here: a damaged frame is an error of `planes`.
    """

    def __init__(self, windows: Windows, *, image: bool):
        self.checksum, self.size, self.antialias, self.image = (
            windows.checksum,
            windows.size,
            windows.antialias,
            image,
        )
        self._windows = windows
        self._used = [windows.frames_used(video) for video in range(len(windows.indexes))]
        self._first = np.cumsum([0] + [len(used) for used in self._used])
        self.height = max(index.height + index.height % 2 for index in windows.indexes)
        self.width = max(index.width + index.width % 2 for index in windows.indexes)

    @property
    def frames(self) -> int:
        """How many frames there are."""
        return int(self._first[-1])

    @property
    def shape(self) -> tuple[int, int]:
        """Of what `planes` gives: a frame's height and a half, width. The largest video's; others leave room in it."""
        return self.height * 3 // 2, self.width

    def __getitem__(self, position: int) -> dict[str, Any]:
        """{"numbers": int32 [frames], "box": int32 [4] (top, left, height, width), "position": uint32 []}"""
        video, numbers, box = self._windows.plan(position)
        places = self._first[video] + np.searchsorted(self._used[video], numbers)
        return {
            "numbers": places.astype(np.int32),
            "box": np.asarray(box, np.int32),
            "position": np.uint32(position),
        }

    def where(self, position: int) -> str:
        """Where the window lies, in words."""
        return self._windows.where(position)

    def describe(self, position: int) -> dict:
        """Where the window lies, as the data set says it."""
        return self._windows.describe(position)

    def planes(self, number: int) -> np.ndarray:
        """One frame, uint8 `shape`: luma above, Cb and Cr at half the resolution beside each other below.

        BT.601 at full range, as JPEG has it. DamagedFrame, an InputError that names it, if it cannot be read.
        """
        video = int(np.searchsorted(self._first, number, side="right")) - 1
        rgb = self._windows.decode(video, int(self._used[video][number - self._first[video]]))
        y, cr, cb = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb))
        planes = np.zeros(self.shape, np.uint8)
        planes[: y.shape[0], : y.shape[1]] = y
        half = y.shape[1] // 2, y.shape[0] // 2
        for plane, left in ((cb, 0), (cr, self.width // 2)):
            small = cv2.resize(plane, half, interpolation=cv2.INTER_AREA)
            planes[self.height : self.height + half[1], left : left + half[0]] = small
        return planes
