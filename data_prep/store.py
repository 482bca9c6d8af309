"""The folder of one video's preparation: whose it is, what of it is done, and what is written when.

Every file appears by rename, whole or not at all. `plan.json` comes first and tells what was asked for; each segment's
frames are followed by a `segment-*.json` that tells what they are; `index.json` comes last, and then the others go and
a contact sheet is made.
"""

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from ssljax.data.index import INDEX
from ssljax.data.timeline import Timeline
from ssljax.data.video import Group
from ssljax.errors import InputError

PLAN = "plan.json"


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's size and of 64 pieces of 64 KiB spread evenly: tells files apart without reading all."""
    size, piece = path.stat().st_size, 64 * 1024
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for i in range(64):
            file.seek(max(size - piece, 0) * i // 63)
            digest.update(file.read(piece))
    return digest.hexdigest()


def is_finished(output: Path, plan: dict) -> bool:
    """Whether `output` holds the finished result of `plan`; InputError if it holds anything but (a part of) it."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file, not a folder: choose another --output")
    if (output / INDEX).is_file():
        _compare(output / INDEX, plan)
        clean(output)
        return True
    if (output / PLAN).is_file():
        _compare(output / PLAN, plan)
    elif output.is_dir() and any(not file.name.startswith(".") for file in output.iterdir()):
        raise InputError(f"{output} holds files that are not a preparation's: choose another --output")
    return False


def _compare(path: Path, plan: dict) -> None:
    try:
        found = dict(json.loads(path.read_bytes()))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} is not what a preparation writes: choose another --output") from error
    for key, what in (
        ("version", "by another version"),
        ("source", "from another file"),
        ("settings", "with other settings"),
    ):
        if found.get(key) != plan[key]:
            told = difference(found.get(key), plan[key])
            raise InputError(f"{path.parent} was prepared {what} ({told}): choose another --output or remove it")


def difference(was: Any, now: Any) -> str:
    """In words, between what is recorded and what is asked for."""
    if not isinstance(was, dict) or not isinstance(now, dict):
        return f"{was} instead of {now}"
    return ", ".join(
        f"{key} {was.get(key)} instead of {now.get(key)}" for key in was | now if was.get(key) != now.get(key)
    )


def claim(output: Path, plan: dict) -> None:
    """Make the folder and write down whose it is; InputError if nothing can be written there."""
    try:
        str(output).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{output} is not a name in UTF-8: rename the video, or choose another --output") from error
    try:
        output.mkdir(parents=True, exist_ok=True)
        if not (output / PLAN).is_file():
            write_json(output / PLAN, plan)
    except OSError as error:
        raise InputError(f"{output} cannot be written ({error.strerror}): choose another --output") from error


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A file to write that becomes `path` by rename, unless it is removed: `path` is there whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        yield unfinished
        if unfinished.exists():
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def told_as_os_error(path: Path) -> Iterator[None]:
    """ArrayRecord says RuntimeError when a disk is full or failing."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"{path} cannot be written ({str(error).split(';')[0]})") from error


def write_json(path: Path, value: dict, *, indent: int | None = 1) -> None:
    """Write a file, whole or not at all."""
    with temporary(path) as file:
        file.write_text(json.dumps(value, indent=indent))


def finished_segment(output: Path, number: int) -> dict | None:
    """What `write_segment` left, if it came to its end."""
    path = output / f"segment-{number:05d}.json"
    if not path.is_file():
        return None
    part = json.loads(path.read_bytes())
    if part["frames"] and (output / part["file"]).stat().st_size != part["bytes"]:
        raise InputError(f"{output / part['file']} was changed since it was written: remove {output} and prepare again")
    return part


def all_segments(output: Path, count: int) -> list[dict] | None:
    """What all segments are; None if some are not done, or if another machine finished and removed the traces."""
    try:
        parts = [finished_segment(output, number) for number in range(count)]
    except FileNotFoundError:
        return None
    done = [part for part in parts if part is not None]
    return done if len(done) == count else None


def write_segment(
    timeline: Timeline,
    output: Path,
    number: int,
    groups: Iterator[Group],
    advance: Callable[[int], None],
    check: Callable[[bytes], object],
    stop: Event,
) -> bool:
    """Write the sound frames of one segment and, last, what they are; whether it came to its end before `stop`.

    `advance` is told how many frames of the video each group took. Every stored frame is read back and decoded once
    more by `check`.
    """
    name = f"frames-{number:05d}.array_record"
    times, dropped, digest = [], [], hashlib.sha256()
    size = 0
    with temporary(output / name) as path:
        writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        for g, frames, count in groups:
            if frames is None:
                dropped.append(g)
            for pts, record in frames or []:
                with told_as_os_error(path):
                    writer.write(record)
                digest.update(record)
                times.append(timeline.seconds(pts))
            advance(count)
        with told_as_os_error(path):
            writer.close()
        if stop.is_set():
            path.unlink()
            return False
        if times:
            verify(path, len(times), digest.hexdigest(), check)
            size = path.stat().st_size
        else:
            path.unlink()
    part = {"file": name, "frames": len(times), "bytes": size, "sha256": digest.hexdigest()}
    write_json(output / f"segment-{number:05d}.json", part | {"times": times, "dropped": dropped})
    return True


def verify(path: Path, frames: int, sha256: str, check: Callable[[bytes], object] = len) -> None:
    """Read a record file back; OSError if it does not hold what was written, or a record that `check` refuses."""
    digest = hashlib.sha256()
    try:
        reader = ArrayRecordReader(str(path))
        for number in range(reader.num_records()):
            record = reader.read([number])[0]
            digest.update(record)
            check(record)
        found = reader.num_records()
        reader.close()
    except (RuntimeError, ValueError, IndexError) as error:
        raise OSError(f"{path} cannot be read back ({error}): is the disk full or failing?") from error
    if found != frames or digest.hexdigest() != sha256:
        raise OSError(f"{path} holds {found} records that are not the {frames} written: is the disk full or failing?")


def clean(output: Path) -> None:
    """Remove the traces of the work, once the index is there."""
    for pattern in ("segment-*.json", ".*.tmp", PLAN):
        for path in output.glob(pattern):
            path.unlink(missing_ok=True)
