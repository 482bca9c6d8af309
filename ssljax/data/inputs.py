"""Images and frames of videos from wherever they lie, all of them, in order and one at a time."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssljax.data import images, tiles
from ssljax.data.damage import DamagedFrame
from ssljax.data.imagefile import ENDINGS, read_image
from ssljax.data.imageset import KIND, ImageSet
from ssljax.data.index import INDEX, VideoIndex, find_videos
from ssljax.data.picture import geometry, to_record
from ssljax.data.recording import first_frame, truncated
from ssljax.data.records import Records
from ssljax.data.timeline import Timeline, survey
from ssljax.data.video import decode
from ssljax.errors import InputError

_SHORT_SIDE = 540  # of decoded frames, at least: as preparation stores them


class Item(NamedTuple):
    """An image or a frame, not read yet.

    Attributes:
        name: Of the image: its path in the folder that was named, or in a prepared set. Of the frame: its video's.
        read: Returns RGB uint8 [h, w, 3]; DamagedFrame or another InputError where it cannot be read.
        time: Of a frame, in seconds after the video's first.
        label: Of an image, the name of its class.
    """

    name: str
    read: Callable[[], np.ndarray]
    time: float | None = None
    label: str | None = None


class Input(NamedTuple):
    """Some images, or a video.

    Attributes:
        total: How many items.
        items: Goes through them once; a video file is decoded meanwhile, a group of pictures at a time.
        is_video: Whether items have times.
        has_labels: Whether they have labels.
    """

    total: int
    items: Callable[[], Iterator[Item]]
    is_video: bool = False
    has_labels: bool = False


def find_inputs(
    places: Sequence[Path], *, every: float | None = None, size: int = 0, damaged: list[str] | None = None
) -> list[Input]:
    """Return what is at `places`; nothing but indexes and a video's packets and first picture is read.

    Args:
        places: Each an image file, a folder that is searched for such to the bottom, a prepared set of images, a
            prepared video or a folder of some, or a video file. Of a folder whose every image lies in one of several
            folders within, these are the classes. Of several places the names are whole paths.
        every: Seconds between a video's frames: of each of these moments the first frame that is not before it; by
            default 1.
        size: Side in pixels that frames will be cut to: they are decoded at least as large.
        damaged: Gets a sentence for each place that cannot be read or holds nothing of the kind, which is left out.

    Raises:
        InputError: A place does not exist, or there is no video for `every`; without `damaged`, also if a place cannot
            be read or holds nothing of the kind.
    """
    if every is not None and not every > 0:
        raise InputError(f"--every is {every:g}; give a number of seconds above 0, such as 1.")
    found: list[Input] = []
    for place in places:
        if not place.exists():
            raise InputError(f"{place} does not exist; give images, a folder of them, a prepared folder or a video.")
        try:
            found += _find(place, place if len(places) > 1 else None, every or 1.0, size)
        except InputError as error:
            if damaged is None:
                raise
            damaged.append(str(error))
    if every is not None and not damaged and not any(each.is_video for each in found):
        raise InputError(f"--every is about videos, and {places[0]} is none; leave it out.")
    return found


def _find(place: Path, prefix: Path | None, every: float, size: int) -> list[Input]:
    if place.is_file() and place.suffix.lower() in ENDINGS:
        return [_files([place], [str(prefix or place.name)])]
    if place.is_file():
        return [_video(survey(place), str(prefix or place.name), every, size)]
    if (place / INDEX).is_file() and _is_image_set(place):
        return [_image_set(ImageSet(place), prefix)]
    if (place / INDEX).is_file() or any((child / INDEX).is_file() for child in place.iterdir()):
        return [_frames(index, prefix, every) for index in find_videos(place)]
    names = _search(place)
    if not names:
        raise InputError(
            f"{place} holds no images (files ending in {' '.join(ENDINGS)}); give some, or name videos one by one."
        )
    return [_files([place / name for name in names], [_joined(prefix, name) for name in names], _labels(names))]


def _files(paths: Sequence[Path], names: Sequence[str], labels: Sequence[str] | None = None) -> Input:
    def items() -> Iterator[Item]:
        for i, (path, name) in enumerate(zip(paths, names, strict=True)):
            yield Item(name, functools.partial(read_image, path), label=labels[i] if labels else None)

    return Input(len(paths), items, has_labels=labels is not None)


def _image_set(source: ImageSet, prefix: Path | None) -> Input:
    labels = source.labels()

    def read(number: int) -> np.ndarray:
        try:
            return images.decode(source.encoded(number))
        except ValueError as error:
            raise images.undecodable(source, number, error) from error

    def items() -> Iterator[Item]:
        for number in range(source.count):
            label = None if labels is None else source.classes[labels[number]]
            yield Item(_joined(prefix, source.name(number)), functools.partial(read, number), label=label)

    return Input(source.count, items, has_labels=labels is not None)


def _frames(index: VideoIndex, prefix: Path | None, every: float) -> Input:
    """Return the stored frames of a prepared video."""
    records, chosen = Records(index), _moments(index.times, every)
    name = index.name if prefix is None else str(index.folder)

    def items() -> Iterator[Item]:
        for number in chosen.tolist():
            yield Item(name, functools.partial(records.decode, number), time=float(index.times[number]))

    return Input(len(chosen), items, is_video=True)


def _video(timeline: Timeline, name: str, every: float, size: int) -> Input:
    """Return the frames of a video file."""
    if timeline.missing:
        raise truncated(timeline, timeline.duration, "prepare what is there with --allow-damage")
    chosen = _moments(np.asarray([timeline.seconds(pts) for pts in timeline.pts]), every)
    frame, aspect = first_frame(timeline)
    shape = geometry(frame, aspect, max(_SHORT_SIDE, 2 * size))
    convert = functools.partial(to_record, shape=shape, quality=95, chroma=444)
    convert(frame)  # refuses what is not supported
    wanted = [int(pts) for pts in timeline.pts[chosen]]
    groups = timeline.gop(wanted[0]), timeline.gop(wanted[-1]) + 1

    def items() -> Iterator[Item]:
        for group, found, _ in decode(timeline, *groups, set(wanted), convert, lambda: False):
            records = dict(found or [])
            for pts in (pts for pts in wanted if timeline.gop(pts) == group):
                time = timeline.seconds(pts)
                read = functools.partial(_decoded, timeline.path, time, records.get(pts), shape.stored)
                yield Item(name, read, time=time)

    return Input(len(chosen), items, is_video=True)


def _decoded(path: Path, time: float, record: bytes | None, stored: tuple[int, int]) -> np.ndarray:
    if record is None:
        raise DamagedFrame(f"{path} is damaged at {time:.3f} s")
    return tiles.decode(record, *stored[::-1])


def _moments(times: np.ndarray, every: float) -> np.ndarray:
    """Return the numbers of the first frames that are not before 0, every, 2 * every, ..., each once."""
    moments = np.arange(0, times[-1] + every / 2, every) + times[0]
    chosen = np.searchsorted(times, moments - 1e-5)  # of times that are rounded to the microsecond
    return np.unique(chosen[chosen < len(times)])


def _search(folder: Path) -> list[str]:
    """Return the images below a folder by their paths in it, sorted; links are followed, hidden ones left out."""
    found, seen = [], set[str]()
    for place, inside, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        inside[:] = [] if real in seen else [name for name in inside if not name.startswith(".")]
        for name in [] if real in seen else files:  # not again where a link leads back
            path = Path(place, name)
            if path.suffix.lower() in ENDINGS and not name.startswith("."):
                found.append(path.relative_to(folder).as_posix())
        seen.add(real)
    return sorted(found)


def _labels(names: Sequence[str]) -> list[str] | None:
    """Return the folder of each image, where each lies in one of several; otherwise None: as preparation has it."""
    folders = [name.split("/")[:-1] for name in names]
    if any(len(parts) != 1 for parts in folders) or len({parts[0] for parts in folders}) < 2:
        return None
    return [parts[0] for parts in folders]


def _joined(prefix: Path | None, name: str) -> str:
    return name if prefix is None else str(prefix / name)


def _is_image_set(place: Path) -> bool:
    """Whether an index says so; of one that is broken its reader tells."""
    try:
        return json.loads((place / INDEX).read_bytes()).get("kind") == KIND
    except (OSError, ValueError, AttributeError):
        return False
