"""Writing a set of images: cut into segments of some thousands, each written whole or not at all.

A finished segment is never done again: a stopped preparation goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from data_prep.pictures import BadImage, Picture
from data_prep.store import claim, clean, finished_segment, is_finished, told_as_os_error, verify, write_json
from data_prep.store import temporary as unfinished
from ssljax.data.imageset import KIND, VERSION, ImageIndex, read_image_index
from ssljax.data.index import INDEX
from ssljax.errors import InputError

SEGMENT_IMAGES = 10_000
_SEGMENT_BYTES = 2**30  # of sources
_CHUNK = 256  # images decoded together
_TOLD = 5


@dataclass(frozen=True)
class Source:
    """Images to prepare.

    Attributes:
        material: What names them, beside the settings: the same source, the same preparation.
        names: Of each image, for people.
        bytes: Of each, about.
        classes: Names; empty without labels.
        labels: The class of each image.
        picture: Number of an image -> its record, or BadImage; safe to call from several threads.
    """

    material: dict[str, Any]
    names: Sequence[str]
    bytes: Sequence[int]
    classes: Sequence[str]
    labels: Sequence[int] | None
    picture: Callable[[int], Picture]


class _Bad:
    """The images that cannot be read: InputError as soon as they are too many."""

    def __init__(self, share: float, total: int, where: str):
        self._most, self._share, self._total, self._where = share * total, share, total, where
        self.found: dict[int, tuple[str, str]] = {}

    def add(self, number: int, name: str, reason: str) -> None:
        """Note one."""
        self.found[number] = name, reason
        if len(self.found) > self._most:
            told = [f"{printable(name)} ({reason})" for name, reason in list(self.found.values())[:_TOLD]]
            more = f" and {len(self.found) - _TOLD} more" if len(self.found) > _TOLD else ""
            raise InputError(
                f"{len(self.found)} of {self._total} images of {self._where} cannot be read, more than --bad-share "
                f"({self._share:g}) allows: {', '.join(told)}{more}; mend or remove them, or give a larger --bad-share"
            )


def printable(name: str) -> str:
    """A file name whose bytes may not be UTF-8, as any terminal shows it."""
    return name.encode("utf-8", "backslashreplace").decode()


def write_set(
    source: Source,
    output: Path,
    settings: dict[str, Any],
    *,
    bad_share: float,
    threads: int | None = None,
    progress: bool = False,
    segment_images: int = SEGMENT_IMAGES,
) -> ImageIndex:
    """Prepare `source` into the folder `output`; continue an unfinished preparation, return a finished one as it is.

    Raises InputError if `output` holds something else, or if more than `bad_share` of the images cannot be read.
    """
    if not 0 <= bad_share < 1:
        raise InputError(f"--bad-share {bad_share:g} must be at least 0 and less than 1")
    settings = {**settings, "segment_images": segment_images}
    plan = _plan(source.material, settings)
    if is_finished(output, plan):
        return read_image_index(output)
    claim(output, plan)
    jobs = _segments(source.bytes, segment_images)
    bad = _Bad(bad_share, len(source.names), output.name)
    parts = {number: finished_segment(output, number) for number in range(len(jobs))}
    for part in filter(None, parts.values()):
        for image, reason in part["bad"]:
            bad.add(image, source.names[image], reason)
    done = sum(len(job) for number, job in enumerate(jobs) if parts[number])
    total = len(source.names)
    bar = tqdm(total=total, initial=done, unit=" images", desc=output.name, disable=not progress, mininterval=0.5)
    with bar, ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        try:
            for number, job in enumerate(jobs):
                if not parts[number]:
                    parts[number] = _write_segment(source, output, number, job, pool, bad, bar)
        finally:
            pool.shutdown(cancel_futures=True)
    _finish(source, output, plan, [part for part in parts.values() if part])
    return read_image_index(output)


def finished_set(output: Path, material: dict[str, Any], settings: dict[str, Any]) -> ImageIndex | None:
    """What `write_set` made of this material, if it came to its end; InputError if `output` holds something else."""
    plan = _plan(material, {**settings, "segment_images": SEGMENT_IMAGES})
    return read_image_index(output) if is_finished(output, plan) else None


def _plan(material: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    return {"version": VERSION, "kind": KIND, "source": material, "settings": settings}


def _segments(sizes: Sequence[int], most: int) -> list[range]:
    """As many images as fit into a segment, by number and by bytes, and at least one."""
    starts, total = [0], 0
    for number, size in enumerate(sizes):
        total += size
        if number > starts[-1] and (number - starts[-1] >= most or total > _SEGMENT_BYTES):
            starts.append(number)
            total = size
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(sizes)], strict=True)]


def _write_segment(
    source: Source, output: Path, number: int, job: range, pool: ThreadPoolExecutor, bad: _Bad, bar: tqdm
) -> dict[str, Any]:
    """Write one segment and, last, what it is; return that."""
    name, digest = f"images-{number:05d}.array_record", hashlib.sha256()
    sizes, lost, size = {}, [], 0
    with unfinished(output / name) as path:
        writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        for start in range(job.start, job.stop, _CHUNK):
            chunk = range(start, min(start + _CHUNK, job.stop))
            for image, picture in zip(chunk, pool.map(lambda i: _try(source, i), chunk), strict=True):
                if isinstance(picture, BadImage):
                    lost.append((image, str(picture)))
                    bad.add(image, source.names[image], str(picture))
                else:
                    with told_as_os_error(path):
                        writer.write(picture.record)
                    digest.update(picture.record)
                    sizes[image] = picture.width, picture.height
            bar.update(len(chunk))
        with told_as_os_error(path):
            writer.close()
        if sizes:
            verify(path, len(sizes), digest.hexdigest())
            size = path.stat().st_size
        else:
            path.unlink()
    part: dict[str, Any] = {"file": name, "frames": len(sizes), "bytes": size, "sha256": digest.hexdigest()}
    part |= {"images": list(sizes), "sizes": list(sizes.values()), "bad": lost}
    write_json(output / f"segment-{number:05d}.json", part)
    return part


def _try(source: Source, image: int) -> Picture | BadImage:
    try:
        return source.picture(image)
    except BadImage as error:
        return error


def _finish(source: Source, output: Path, plan: dict[str, Any], parts: list[dict[str, Any]]) -> None:
    """Write the index, the sign that all is done, then remove the traces of the work."""
    images = [image for part in parts for image in part["images"]]
    if not images:
        raise InputError(f"{output} would hold no images: none could be read")
    index = {
        **plan,
        "count": len(images),
        "classes": list(source.classes),
        "segments": [{k: part[k] for k in ("file", "frames", "bytes", "sha256")} for part in parts if part["frames"]],
        "bad": [(source.names[image], reason) for part in parts for image, reason in part["bad"]],
        "labels": None if source.labels is None else [int(source.labels[image]) for image in images],
        "sizes": [size for part in parts for size in part["sizes"]],
        "names": [source.names[image] for image in images],
    }
    write_json(output / INDEX, index, indent=None)
    clean(output)
