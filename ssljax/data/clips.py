"""Labelled videos as evaluations read them: some frames of each, evenly spread."""

from __future__ import annotations

import csv
import hashlib
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from ssljax.data.images import evaluation_view
from ssljax.data.recording import truncated
from ssljax.data.timeline import open_video, survey
from ssljax.errors import InputError

_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm")


class LabelledVideo(NamedTuple):
    """A video and the name of its class."""

    path: Path
    label: str


def find_videos(listed: str | os.PathLike[str], videos: str | os.PathLike[str]) -> list[LabelledVideo]:
    """Return the videos of a list.

    Args:
        listed: Of UCF-101, ucfTrainTestlist/testlist01.txt: lines CLASS/NAME.avi, perhaps with a number behind. Or of
            Kinetics, a CSV file with the columns label, youtube_id, time_start, time_end.
        videos: The folder of the videos: CLASS/NAME.avi, or ID_000001_000011.mp4 in the folder itself or one of the
            label's name (mkv and webm too).

    Raises:
        InputError: The list is neither, or a video is missing.
    """
    path, folder = Path(listed), Path(videos)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a list of UCF-101 (.txt) or Kinetics (.csv).")
    if path.suffix == ".csv":
        found = _of_kinetics(path, folder)
    else:
        names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
        wrong = [name for name in names if name.count("/") != 1]
        if wrong:
            raise InputError(f"{path} names {wrong[0]!r}; lines of UCF-101's lists are CLASS/NAME.avi.")
        found = [LabelledVideo(folder / name, name.split("/")[0]) for name in names]
    missing = [video.path for video in found if not video.path.is_file()]
    if missing:
        raise InputError(
            f"{missing[0]} is missing, and so are {len(missing) - 1} more of {len(found)} videos of {path}; take their "
            "lines out where they cannot be had."
        )
    if not found:
        raise InputError(f"{path} names no videos; give a list that does.")
    return found


def _of_kinetics(path: Path, folder: Path) -> list[LabelledVideo]:
    found = []
    with path.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            try:
                start, end = int(float(row["time_start"])), int(float(row["time_end"]))
                label, name = row["label"], f"{row['youtube_id']}_{start:06d}_{end:06d}"
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"{path}, line {number}, is none of Kinetics ({error!r}); it has label, youtube_id, time_start, "
                    "time_end."
                ) from error
            places = [base / f"{name}{suffix}" for base in (folder, folder / label) for suffix in _SUFFIXES]
            found.append(LabelledVideo(next((place for place in places if place.is_file()), places[0]), label))
    return found


class LabelledClips:
    """Videos of a list in its order; iterating gives (frames uint8 [b, n, size, size, 3], labels int32 [b]).

    Each video is cut into n parts of equally many frames, and the middle one of each is taken, as `evaluation_view`
    cuts it: where there are fewer than n, some are taken twice.

    Args:
        videos: See `find_videos`.
        classes: Their names, whose places are the labels.
        frames: n.
        size: Side in pixels.
        batch_size: Videos a batch.
        threads: That decode.

    Raises:
        InputError: A number is below 1; while iterating, a video cannot be decoded.
    """

    def __init__(
        self,
        videos: list[LabelledVideo],
        classes: list[str],
        *,
        frames: int,
        size: int,
        batch_size: int = 32,
        threads: int = 2,
    ) -> None:
        if min(frames, size, batch_size) < 1:
            raise InputError(f"frames is {frames}, size {size}, batch_size {batch_size}; give at least 1.")
        self._videos, self._frames, self._size = videos, frames, size
        self._batch, self._threads = batch_size, threads
        self._labels = np.asarray([classes.index(video.label) for video in videos], np.int32)
        names = [(video.label, video.path.name, video.path.stat().st_size) for video in videos]
        self.checksum = hashlib.sha256(repr(names).encode()).hexdigest()

    def __len__(self) -> int:
        """Return the number of videos."""
        return len(self._videos)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Read the videos, a batch ahead."""
        starts = [*range(0, len(self), self._batch)]
        with ThreadPoolExecutor(self._threads) as pool:

            def submit(start: int) -> list[Future]:
                return [pool.submit(self._read, video.path) for video in self._videos[start : start + self._batch]]

            ahead = submit(0)
            try:
                for start, following in itertools.zip_longest(starts, starts[1:]):
                    pending, ahead = ahead, [] if following is None else submit(following)
                    yield np.stack([clip.result() for clip in pending]), self._labels[start : start + self._batch]
            finally:
                pool.shutdown(cancel_futures=True)

    def _read(self, path: Path) -> np.ndarray:
        return read_frames(path, self._frames, self._size)


def read_frames(path: Path, count: int, size: int) -> np.ndarray:
    """Return the middle frames of `count` parts of a video, uint8 [count, size, size, 3].

    It is decoded twice, to count its frames first: old containers do not say it, nor when each is shown.

    Raises:
        InputError: It is no video, is cut short, or a frame is damaged.
    """
    timeline = survey(path)
    if timeline.missing:
        raise truncated(timeline, timeline.duration, "leave it out")
    total = sum(1 for _ in _decoded(path))
    middles = [(2 * part + 1) * total // (2 * count) for part in range(count)]
    wanted = set(middles)
    found = {}
    for number, frame in enumerate(_decoded(path)):
        if number in wanted:
            image = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
            found[number] = evaluation_view(np.ascontiguousarray(image), size)
    return np.stack([found[number] for number in middles])


def _decoded(path: Path) -> Iterator[av.VideoFrame]:
    container, stream = open_video(path)
    with container:
        try:
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise InputError(f"{path} has a damaged frame; fetch it again, or leave it out.")
                yield frame
        except av.FFmpegError as error:
            raise InputError(f"{path} cannot be decoded ({error}); fetch it again, or leave it out.") from error
