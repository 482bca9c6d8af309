"""Stored frames by number or by time."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from ssljax.data.damage import DamagedFrame
from ssljax.data.index import Segment, VideoIndex, read_index
from ssljax.data.tiles import Box, decode
from ssljax.errors import InputError

# Riegeli's defaults are for reading in order: they would read ahead megabytes for each frame.
_RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"


class Shards:
    """The records of a folder's ArrayRecord files, by number, one file's after the other's.

    Files are opened at first use in each process (a reader made before a fork hangs or aborts) and then shared by its
    threads (ArrayRecord's reads by number are thread-safe). It can be pickled and sent to a worker.

    ArrayRecord keeps a 64-bit hash of every record and compares it at each read, so that no flipped bit gets through.
    """

    def __init__(self, folder: Path, segments: Sequence[Segment]):
        self._folder, self._segments = folder, tuple(segments)
        self._first = np.cumsum([0] + [segment.frames for segment in segments])
        self._forget()

    def _forget(self) -> None:
        self._lock, self._process, self._readers = threading.Lock(), os.getpid(), dict[int, ArrayRecordReader]()

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key not in ("_lock", "_process", "_readers")}

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
                    path = self._folder / self._segments[number].file
                    reader = ArrayRecordReader(str(path), _RANDOM_ACCESS, file_reader_buffer_size=64 * 1024)
                    self._readers[number] = reader
        return reader

    def _segment(self, number: int) -> int:
        return int(np.searchsorted(self._first, number, side="right")) - 1

    def file(self, number: int) -> Path:
        """The file that holds record `number`."""
        return self._folder / self._segments[self._segment(number)].file

    def read(self, number: int) -> bytes:
        """Record `number`; RuntimeError, ValueError, IndexError or OSError where it is not what was written."""
        segment = self._segment(number)
        return self._reader(segment).read([int(number - self._first[segment])])[0]


class Records(Shards):
    """The stored frames of one prepared video, by number: see `Shards`. A damaged one raises DamagedFrame."""

    def __init__(self, index: VideoIndex):
        super().__init__(index.folder, index.segments)
        self.index = index

    def stored(self, frame: int) -> bytes:
        """The stored bytes of frame number `frame` (0 <= frame < number of stored frames)."""
        try:
            return self.read(frame)
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
        return DamagedFrame(
            f"frame {frame} ({self.index.times[frame]:.3f} s) of {self.file(frame)} cannot be read "
            f"({error}): copy it again, or prepare the video again"
        )


def read_frames(folder: str | os.PathLike, times: Sequence[float | int]) -> tuple[np.ndarray, np.ndarray]:
    """The stored frames nearest to `times` (seconds): uint8 [t, h, w, 3], and their own times float64 [t]."""
    index = read_index(folder)
    records = Records(index)
    numbers = nearest(index.times, np.asarray(times, np.float64))
    return np.stack([records.decode(int(number)) for number in numbers]), index.times[numbers]


def read_span(index: VideoIndex, first: float, end: float, *, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The stored frames of a part of a video, evenly spaced: uint8 [t, h, w, 3], and their times in seconds [t].

    Args:
        index: Of the video.
        first: The part's first second.
        end: The part ends before it.
        most: How many frames at most; of more, every second or third, ..., is read.

    Raises:
        InputError: The part has fewer than two frames, so that nothing moves.
    """
    times = index.times[(index.times >= first) & (index.times < end)]
    if len(times) < 2:
        raise InputError(
            f"{index.folder} has {len(times)} frames in seconds {first:g} to {end:g} of its {index.duration:.1f}; give "
            "other seconds."
        )
    return read_frames(index.folder, times[:: -(-len(times) // most)].tolist())


def nearest(times: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """For each of `targets` the number of the nearest of the rising `times`; the earlier of two equally near ones."""
    after = np.clip(np.searchsorted(times, targets), 1, max(len(times) - 1, 1))
    before = after - 1
    if len(times) == 1:
        return before
    return np.where(targets - times[before] <= times[after] - targets, before, after)
