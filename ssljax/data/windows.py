"""Windows of frames from prepared videos, cut to a square canvas, one for each position of a global order."""

import functools
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssljax.data.crops import Number, Pair, check_crop, crop_box, cut
from ssljax.data.damage import Damage, DamagedFrame
from ssljax.data.index import VideoIndex, combined_checksum, find_videos
from ssljax.data.order import BlockOrder, Order
from ssljax.data.recording import Settings
from ssljax.data.records import Records, nearest
from ssljax.data.resident import Plans
from ssljax.data.stream import Blocks, open_streams
from ssljax.data.tiles import Box
from ssljax.errors import InputError

SOURCES = ("records", "stream", "device")
Span = Sequence[Number | None]  # (first, end) in seconds


class Windows:
    """Windows of `frames` frames, `gap` seconds apart, from one or several prepared videos: infinite, random access.

    video: a folder made by `ssljax prepare video`, or a list of them (each one video, or a folder of videos).
    source: "records" reads prepared videos as they lie on the disk; "stream" takes original video files instead and
        decodes them in order (stream.py); "device" is for a loop that cuts windows on the accelerator (resident.py),
        and reads records elsewhere.
    size: the side of the square canvas in pixels. A random box of the frame, a part `scale` (smallest, largest) of its
        area with a width-to-height `ratio` (smallest, largest), is resized to it: one box for a whole window.
        `ratio=None` takes the largest centred square of the frame instead.
    weights: how often each video is drawn, in proportion; None draws each start of each video equally often.
    seconds: (first, end) of each video to use, either of which may be None; negative ones count from its end, so that
        (None, -2.0) leaves out the last 2 s. Every frame of a window lies within.
    stride: seconds between window starts; None starts a window at every stored frame.
    reuse: how many windows in a row show the same frames, each its own box. They are decoded once where they are read
        together, which is faster and makes a batch less varied; an epoch is so many times longer.
    antialias: False samples by plain bilinear interpolation of the whole frame, as many released loaders do.
    stream: `every`, `short_side`, `quality` and `chroma` of source "stream", as the preparation has them.
    bad_share: the part of the windows that may have a damaged frame. Such a window is replaced by another one of its
        video, the frame is named on standard error, and beyond this share (and 10 windows) InputError ends the run.

    Times come from the presentation times: a window that starts at stored time s takes, for each i, the stored frame
    nearest to s + i*gap, and is used only if each lies within half the usual stored spacing and no dropped (damaged)
    span lies inside. Every random choice of window i derives from (seed, i) alone, a replacement's frames from (seed,
    i // reuse): all windows that share a damaged frame are replaced by windows that share frames again.
    """

    def __init__(
        self,
        *,
        video: str | os.PathLike | Sequence[str | os.PathLike],
        frames: int,
        gap: Number,
        size: int,
        seed: int = 0,
        source: str = "records",
        weights: Sequence[Number] | None = None,
        seconds: Span | None = None,
        stride: Number | None = None,
        scale: Pair = (0.2, 1.0),
        ratio: Pair | None = (3 / 4, 4 / 3),
        reuse: int = 1,
        antialias: bool = True,
        stream: Mapping[str, Any] | None = None,
        bad_share: Number = 0.001,
    ):
        _check_arguments(frames, gap, size, seconds, stride, scale, ratio, reuse)
        if source not in SOURCES:
            raise InputError(f"source is {source!r}; give one of {', '.join(SOURCES)}")
        if source == "stream" and weights is not None:
            raise InputError("weights need data.source=records: a stream reads its videos one after the other")
        self.frames, self.gap, self.size, self.seed, self.reuse = frames, float(gap), size, seed, reuse
        self.scale, self.ratio, self.antialias = tuple(scale), ratio and tuple(ratio), antialias
        self.source = source
        self._blocks: Blocks | None = None
        self._records: Sequence[Records]
        self._order: Order | BlockOrder
        settings = Settings(**(stream or {}))
        if source == "stream":
            self.indexes, self._records, self._blocks = open_streams(video, settings, (frames - 1) * gap)
        else:
            self.indexes = _prepared(video)
            self._records = [Records(index) for index in self.indexes]
        self.starts = [window_starts(index, frames, gap, seconds, stride) for index in self.indexes]
        if source == "stream":
            self._order = BlockOrder(_blocks(self.indexes, self.starts), seed=seed)
        else:
            self._order = Order([len(starts) for starts in self.starts], seed=seed, weights=weights)
        self.damage = Damage(float(bad_share))
        self.checksum = combined_checksum(self.indexes)

    @functools.cached_property
    def plans(self) -> Plans | None:
        """What puts the frames of source "device" on the devices, and says where windows lie in them."""
        return Plans(self, image=False) if self.source == "device" else None

    @property
    def in_process(self) -> bool:
        """Whether it cannot be read in worker processes, each of which would decode all."""
        return self._blocks is not None

    def close(self) -> None:
        """Stop what decodes in the background; a stream cannot be read afterwards."""
        if self._blocks is not None:
            self._blocks.close()

    @property
    def windows(self) -> int:
        """How many different windows there are, but for their boxes: an epoch without weights and reuse."""
        return sum(len(starts) for starts in self.starts)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """{"frames": uint8 [frames, size, size, 3], "position": uint32 []}"""
        return self.read([position])[0]

    def read(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """The samples at `positions`, all of one group of `reuse`: each as if it were read alone."""
        canvases, *_ = self._read(positions)
        return [
            {"frames": frames, "position": np.uint32(position)}
            for frames, position in zip(canvases, positions, strict=True)
        ]

    def describe(self, position: int) -> dict:
        """Where the window at `position` lies: {"video", "times" (seconds), "box" (top, left, height, width)}.

        It reads the window, to know whether another one takes its place.
        """
        _, video, numbers, (box,) = self._read([position])
        index = self.indexes[video]
        return {"video": str(index.folder), "times": index.times[numbers].tolist(), "box": list(box)}

    def where(self, position: int) -> str:
        """Where the window at `position` lies, in words; nothing is read, so another may take its place."""
        return self._words(*self._frames(position // self.reuse, 0))

    def _words(self, video: int, numbers: np.ndarray) -> str:
        index, first, last = self.indexes[video], int(numbers[0]), int(numbers[-1])
        frames = f"frame {first}" if first == last else f"frames {first} to {last}"
        times = " to ".join(f"{index.times[number]:.3f}" for number in sorted({first, last}))
        return f"{frames} ({times} s) of {self._records[video].file(first)}"

    def plan(self, position: int) -> tuple[int, np.ndarray, Box]:
        """(video, frame numbers, box) of a window, before it is known whether a frame is damaged."""
        video, numbers = self._frames(position // self.reuse, 0)
        return video, numbers, self._box(position, 0, video)

    def frames_used(self, video: int) -> np.ndarray:
        """The numbers of the stored frames that any window of a video uses, rising."""
        return np.unique(self._numbers(video, np.arange(len(self.starts[video]))))

    def decode(self, video: int, number: int) -> np.ndarray:
        """A stored frame: RGB uint8 [h, w, 3]. DamagedFrame if it cannot be read."""
        return self._records[video].decode(number)

    def _read(self, positions: Sequence[int]) -> tuple[list[np.ndarray], int, np.ndarray, list[Box]]:
        """(canvases, video, frame numbers, boxes) of the first try that meets no damaged frame."""
        self.damage.ask()
        faults: list[str] = []
        for attempt in itertools.count():
            video, numbers = self._frames(positions[0] // self.reuse, attempt)
            boxes = [self._box(position, attempt, video) for position in positions]
            canvases = [np.empty((self.frames, self.size, self.size, 3), np.uint8) for _ in positions]
            try:
                for i, number in enumerate(numbers.tolist()):
                    cut(self._records[video], number, boxes, [canvas[i] for canvas in canvases], self.antialias)
            except DamagedFrame as error:
                faults.append(str(error))
                self.damage.replace(error)  # raises beyond the allowed share, so that the tries come to an end
            else:
                break
        if faults:
            self.damage.note(positions, faults, self._words(video, numbers))
        return canvases, video, numbers, boxes

    def _frames(self, group: int, attempt: int) -> tuple[int, np.ndarray]:
        """(video, frame numbers) at a place in the global order; later attempts take another start near it."""
        video, start = self._order[group]
        if attempt:
            start = self._order.another(group, self._random(group, 1, attempt))
        return video, self._numbers(video, start)

    def _numbers(self, video: int, start: int | np.ndarray) -> np.ndarray:
        """The numbers of a window's frames, or of several windows' [windows, frames]."""
        times = self.indexes[video].times
        first = times[self.starts[video][start]]
        return nearest(times, first[..., None] + self.gap * np.arange(self.frames))

    def _box(self, position: int, attempt: int, video: int) -> Box:
        index = self.indexes[video]
        return crop_box(self._random(position, 0, attempt), index.height, index.width, self.scale, self.ratio)

    def _random(self, number: int, use: int, attempt: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.seed % 2**64, number], counter=[0, 0, use, attempt]))


def _prepared(video: str | os.PathLike | Sequence[str | os.PathLike]) -> list[VideoIndex]:
    for place in [video] if isinstance(video, (str, os.PathLike)) else video:
        if Path(place).is_file():
            raise InputError(
                f"{place} is a file: prepare it (ssljax prepare video {place} --output DIR) and name DIR, or read the "
                "file itself with --config.data.source=stream"
            )
    return find_videos(video)


def _blocks(indexes: Sequence[VideoIndex], starts: Sequence[np.ndarray]) -> list[tuple[int, int, int]]:
    """(video, first start, end of its starts) of each segment of each video."""
    blocks = []
    for video, index in enumerate(indexes):
        ends = np.searchsorted(starts[video], np.cumsum([0] + [segment.frames for segment in index.segments]))
        blocks += [(video, int(a), int(b)) for a, b in itertools.pairwise(ends)]
    return blocks


def _check_arguments(
    frames: int,
    gap: Number,
    size: int,
    seconds: Span | None,
    stride: Number | None,
    scale: Pair,
    ratio: Pair | None,
    reuse: int,
) -> None:
    if min(frames, size, reuse) < 1:
        raise InputError(f"frames ({frames}), size ({size}) and reuse ({reuse}) must be at least 1")
    if not 0 < gap < math.inf:
        raise InputError(f"gap ({gap} s) must be more than 0")
    if stride is not None and not 0 < stride < math.inf:
        raise InputError(f"stride ({stride} s) must be more than 0, or None for every stored frame")
    check_crop(scale, ratio)
    if seconds is not None and len(seconds) != 2:
        raise InputError(f"seconds {tuple(seconds)} must be (first, end)")


def part(index: VideoIndex, seconds: Span | None) -> tuple[float, float]:
    """The part of a video that `seconds` (first, end) means: (from, to), the whole without; negative from its end."""
    first, end = seconds or (None, None)
    first, end = first or 0.0, math.inf if end is None else end
    return first + index.duration * (first < 0), end + index.duration * (end < 0)


def window_starts(
    index: VideoIndex, frames: int, gap: Number, seconds: Span | None = None, stride: Number | None = None
) -> np.ndarray:
    """The numbers of the stored frames at which a whole, undamaged window starts: int32 [starts], rising.

    InputError if there is none: the video is shorter than a window, or the stored frames too far apart for the gap.
    """
    times, length = index.times, (frames - 1) * gap
    first, end = part(index, seconds)
    if frames > 1 and index.spacing > gap * (1 + 1e-3):
        raise InputError(
            f"{index.folder} stores a frame every {index.spacing:.3g} s, too few for frames {gap:g} s apart: "
            f"ask for a larger gap, or prepare the video again with a smaller --every"
        )
    within = f" within seconds {first:g} to {end:g}" if (first, end) != (0, math.inf) else ""
    span = min(index.duration, end) - first
    if span < length or not len(times):
        raise InputError(
            f"{index.folder} has {max(span, 0):.2f} s{within}, shorter than one window of {frames} frames "
            f"{gap:g} s apart ({length:g} s): ask for fewer frames, a smaller gap or a longer video"
        )
    # A little more than half, since stored times are rounded: a target halfway between two frames has both.
    tolerance = 0.5 * index.spacing + 1e-4
    good = times >= first
    for i in range(frames):
        target = times + i * gap
        found = times[nearest(times, target)]
        good &= (np.abs(found - target) <= tolerance) & (found < end)
    for a, b in index.dropped:
        good &= (times >= b) | (times + length < a)
    starts = np.flatnonzero(good)
    if stride is not None:
        wanted = np.arange(first, times[-1] + stride, stride)
        starts = np.intersect1d(starts, nearest(times, wanted))
    if not len(starts):
        raise InputError(
            f"{index.folder} ({index.duration:.2f} s) holds no whole, undamaged window of {frames} frames "
            f"{gap:g} s apart{within}: ask for fewer frames, a smaller gap or a longer video"
        )
    return starts.astype(np.int32)
