"""Stored frames by number or by time."""

import os
import threading
from collections.abc import Sequence

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from ssljax.data.damage import DamagedFrame
from ssljax.data.index import VideoIndex, read_index
from ssljax.data.tiles import Box, decode

# Riegeli's defaults are for reading in order: they would read ahead megabytes for each frame.
_RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"


class Records:
    """The stored frames of one prepared video, by number.

    Files are opened at first use in each process (a reader made before a fork hangs or aborts) and then shared by its
    threads (ArrayRecord's reads by number are thread-safe). It can be pickled and sent to a worker.

    ArrayRecord keeps a 64-bit hash of every record and compares it at each read, so that no flipped bit gets through:
    a frame that is not what was written raises DamagedFrame.
    """

    def __init__(self, index: VideoIndex):
        self.index = index
        self._first = np.cumsum([0] + [segment.frames for segment in index.segments])
        self._forget()

    def _forget(self) -> None:
        self._lock, self._process, self._readers = threading.Lock(), os.getpid(), dict[int, ArrayRecordReader]()

    def __getstate__(self) -> dict:
        return {"index": self.index, "_first": self._first}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget()

    def _reader(self, number: int) -> ArrayRecordReader:
        if self._process != os.getpid():
            self._forget()
        reader = self._readers.get(number)
        if reader is None:
            with self._lock:
                reader = self._readers.get(number)
                if reader is None:
                    path = self.index.folder / self.index.segments[number].file
                    reader = ArrayRecordReader(str(path), _RANDOM_ACCESS, file_reader_buffer_size=64 * 1024)
                    self._readers[number] = reader
        return reader

    def stored(self, frame: int) -> bytes:
        """The stored bytes of frame number `frame` (0 <= frame < number of stored frames)."""
        segment = int(np.searchsorted(self._first, frame, side="right")) - 1
        try:
            return self._reader(segment).read([int(frame - self._first[segment])])[0]
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            raise self._damaged(frame, error) from error

    def decode(self, frame: int, box: Box | None = None, *, least_height: int = 0, least_width: int = 0) -> np.ndarray:
        """Frame number `frame`, or the box (top, left, height, width) of it, as RGB uint8 [h, w, 3].

        The frame is decoded 2, 4 or 8 times smaller where it does not come below the least; without these never.
        """
        height, width = self.index.height, self.index.width
        factor = 1
        if least_height and least_width:
            while factor < 8 and height >= 2 * factor * least_height and width >= 2 * factor * least_width:
                factor *= 2
        record = self.stored(frame)
        try:
            return decode(record, height, width, box, factor)
        except ValueError as error:
            raise self._damaged(frame, error) from error

    def _damaged(self, frame: int, error: Exception) -> DamagedFrame:
        segment = self.index.segments[int(np.searchsorted(self._first, frame, side="right")) - 1]
        return DamagedFrame(
            f"frame {frame} ({self.index.times[frame]:.3f} s) of {self.index.folder / segment.file} cannot be read "
            f"({error}): copy it again, or prepare the video again"
        )


def read_frames(folder: str | os.PathLike, times: Sequence[float | int]) -> tuple[np.ndarray, np.ndarray]:
    """The stored frames nearest to `times` (seconds): uint8 [t, h, w, 3], and their own times float64 [t]."""
    index = read_index(folder)
    records = Records(index)
    numbers = nearest(index.times, np.asarray(times, np.float64))
    return np.stack([records.decode(int(number)) for number in numbers]), index.times[numbers]


def nearest(times: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """For each of `targets` the number of the nearest of the rising `times`; the earlier of two equally near ones."""
    after = np.clip(np.searchsorted(times, targets), 1, max(len(times) - 1, 1))
    before = after - 1
    if len(times) == 1:
        return before
    return np.where(targets - times[before] <= times[after] - targets, before, after)
