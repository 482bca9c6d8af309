"""What pictures of an encoder are drawn of: images, or frames of a video, from wherever they lie."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from ssljax.data import images, tiles
from ssljax.data.damage import DamagedFrame
from ssljax.data.imagefile import ENDINGS, read_image
from ssljax.data.imageset import KIND, ImageSet, ImageSource
from ssljax.data.index import INDEX, find_videos
from ssljax.data.picture import geometry, to_record
from ssljax.data.recording import first_frame
from ssljax.data.tfds import TFDSSource
from ssljax.data.timeline import survey
from ssljax.data.video import decode
from ssljax.errors import InputError
from ssljax.report.clip import read_clip

_SHORT_SIDE = 540  # of decoded video frames, as preparation stores them
_SECONDS = 5.0  # of a video that are shown, its last


class Inputs(NamedTuple):
    """Images to look at.

    Attributes:
        images: uint8 [h, w, 3] each, of any sizes.
        names: What each is called, or its class, or its time.
        times: Of a video's frames, in seconds; None for images.
    """

    images: list[np.ndarray]
    names: list[str]
    times: list[float] | None = None


def read_inputs(
    places: Sequence[Path], *, count: int, seconds: Sequence[float] | None = None, config: ConfigDict | None = None
) -> Inputs:
    """Return at most `count` images or frames, evenly spaced over what is there.

    Args:
        places: Image files, or one of: a folder of them, or of folders of them, such as one a class (no deeper), a
            prepared set of images, a prepared video or a folder of some, of which the first is taken, a video file.
        count: The most.
        seconds: The part (from, to) of a video; by default what the run left out at its end, or else its last 5.
        config: The run's, whose own videos may be among these.

    Raises:
        InputError: Something cannot be read, or there is nothing of the kind.
    """
    if len(places) > 1 or places[0].suffix.lower() in ENDINGS:
        _no_seconds(seconds, places[0])
        return _read_files(places, count)
    place = places[0]
    if not place.exists():
        raise InputError(f"{place} does not exist; give an image, a folder of images, a prepared folder or a video.")
    if place.is_file():
        return _decode_video(place, count, seconds)
    files = _image_files(place) or _images_below(place)
    if (place / INDEX).is_file() and _is_image_set(place):
        _no_seconds(seconds, place)
        return _read_set(ImageSet(place), count)
    if files and not (place / INDEX).is_file():
        _no_seconds(seconds, place)
        return _read_files(files, count)
    data = {} if config is None or "data" not in config else config.data.to_dict()
    return _read_prepared(data, place, count, seconds)


def own_inputs(config: ConfigDict, *, count: int, seconds: Sequence[float] | None = None) -> Inputs:
    """Return images of a run's own data: of videos the part that training left out, or else their last 5 seconds.

    Raises:
        InputError: The data cannot be read, or are of a data set of the user's own.
    """
    data = config.data.to_dict()
    if not data.get("video"):
        _no_seconds(seconds, "The run's data")
        return _read_set(own_set(config), count)
    if data.get("source") == "stream":
        videos = data["video"]
        return _decode_video(Path(videos if isinstance(videos, str) else videos[0]), count, seconds)
    return _read_prepared(data, None, count, seconds)


def own_set(config: ConfigDict) -> ImageSource:
    """Return the set of images that a run trains on, the first of several; InputError if it trains on none."""
    data = config.data.to_dict()
    if data["name"] == "tfds":
        return TFDSSource(data["dataset"], data["split"], data.get("data_dir", ""))
    if data["name"] == "images" and data.get("data"):
        places = data["data"]
        return ImageSet(places if isinstance(places, str) else places[0])
    raise InputError(f"The run's data ({data['name']}) are no prepared images; name some.")


def covered(image: UInt8[np.ndarray, "h w 3"], *, size: int, patch_size: int) -> UInt8[np.ndarray, "p q 3"]:
    """Return the part of an image that its patches cover, at its own resolution; see `fit_frames`."""
    sides = []
    for side in image.shape[:2]:
        whole = max(round(side * size / min(image.shape[:2])), size)
        kept = round(side * (whole // patch_size * patch_size) / whole)
        sides.append(slice((side - kept) // 2, (side - kept) // 2 + kept))
    return np.ascontiguousarray(image[tuple(sides)])


def spread(total: int, count: int) -> np.ndarray:
    """Return at most `count` numbers below `total`, evenly spaced, with the first and the last."""
    return np.unique(np.linspace(0, total - 1, min(total, count)).round().astype(int))


def view(source: ImageSource, number: int, size: int | None = None) -> np.ndarray:
    """Return an image of a set, whole or as evaluations cut it; InputError if it is damaged."""
    try:
        image = images.decode(source.encoded(number))
        return image if size is None else images.evaluation_view(image, size)
    except DamagedFrame:
        raise
    except ValueError as error:
        raise images.undecodable(source, number, error) from error


def label_names(source: ImageSource, numbers: np.ndarray | Sequence[int]) -> list[str] | None:
    """Return the names of the classes of some images of a set, None where it has none."""
    labels = source.labels()
    return None if labels is None else [source.classes[labels[number]] for number in numbers]


def _read_files(paths: Sequence[Path], count: int) -> Inputs:
    chosen = [paths[i] for i in spread(len(paths), count)]
    names = [path.stem for path in chosen]
    if len(set(names)) < len(names):
        names = [f"{path.absolute().parent.name}/{path.stem}" for path in chosen]
    return Inputs([read_image(path) for path in chosen], names)


def _read_set(source: ImageSource, count: int) -> Inputs:
    numbers = [int(number) for number in spread(source.count, count)]
    names = label_names(source, numbers) or [Path(source.name(number)).stem for number in numbers]
    return Inputs([view(source, number) for number in numbers], names)


def _read_prepared(data: dict[str, Any], place: Path | None, count: int, seconds: Sequence[float] | None) -> Inputs:
    clip = read_clip(data, None if place is None else find_videos(place)[0].folder, seconds)
    chosen = spread(len(clip.times), count)
    return _of_times([clip.frames[i] for i in chosen], [float(clip.times[i]) for i in chosen])


def _decode_video(path: Path, count: int, seconds: Sequence[float] | None) -> Inputs:
    timeline = survey(path)
    times = np.asarray([timeline.seconds(pts) for pts in timeline.pts])
    first, end = seconds or (timeline.duration - _SECONDS, timeline.duration + timeline.interval)
    inside = np.flatnonzero((times >= first) & (times < end))
    if not len(inside):
        raise InputError(f"{path} has no frames in seconds {first:g} to {end:g} of its {timeline.duration:.1f}.")
    chosen = inside[spread(len(inside), count)]
    frame, aspect = first_frame(timeline)
    shape = geometry(frame, aspect, _SHORT_SIDE)
    convert = functools.partial(to_record, shape=shape, quality=95, chroma=444)
    groups = timeline.gop(timeline.pts[chosen[0]]), timeline.gop(timeline.pts[chosen[-1]]) + 1
    frames = []
    for _, found, _ in decode(timeline, *groups, {int(p) for p in timeline.pts[chosen]}, convert, lambda: False):
        if found is None:
            raise InputError(f"{path} is damaged in seconds {first:g} to {end:g}; give another part with --seconds.")
        frames += [tiles.decode(record, *shape.stored[::-1]) for _, record in found]
    return _of_times(frames, times[chosen].tolist())


def _of_times(frames: list[np.ndarray], times: list[float]) -> Inputs:
    return Inputs(frames, [f"{time:.1f} s" for time in times], times)


def are_unrelated(place: Path) -> bool:
    """Return whether a folder holds images that are no frames of one video: a prepared set, or a folder a class."""
    return place.is_dir() and (_is_image_set(place) or (not _image_files(place) and bool(_images_below(place))))


def _image_files(place: Path) -> list[Path]:
    return sorted(file for file in place.iterdir() if file.suffix.lower() in ENDINGS and file.is_file())


def _images_below(place: Path) -> list[Path]:
    """Return the images in a folder's subfolders, none where something prepared lies there."""
    folders = sorted(child for child in place.iterdir() if child.is_dir() and not child.name.startswith("."))
    if any((folder / INDEX).is_file() for folder in [place, *folders]):
        return []
    return [file for folder in folders for file in _image_files(folder)]


def _is_image_set(place: Path) -> bool:
    """Whether an index says so; of one that is missing or broken its reader tells."""
    try:
        return json.loads((place / INDEX).read_bytes()).get("kind") == KIND
    except (OSError, ValueError, AttributeError):
        return False


def _no_seconds(seconds: Sequence[float] | None, what: object) -> None:
    if seconds is not None:
        raise InputError(f"--seconds names a part of a video, and {what} is none.")
