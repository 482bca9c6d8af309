"""The starts of a run: by what and on what devices it ran, one line a start in `starts.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax

from ssljax.errors import InputError
from ssljax.record import program

_FILE = "starts.jsonl"

_NUMBER, _TEXT = (int, float), (str, type(None))
_TYPES: dict[str, tuple[type, ...]] = dict(step=(int,), time=_NUMBER, devices=(int,), processes=(int,), seed=(int,))
_TYPES |= dict(kind=(str,), mesh=(dict,), jax=(str,), commit=_TEXT, dirty=_TEXT, packages=(dict,), command=(list,))


def record_start(workdir: Path, step: int, mesh: jax.sharding.Mesh, began: float, **more: Any) -> None:
    """Note when, by what and on what devices a run starts, or continues; only the first of processes writes.

    Args:
        workdir: Of the run.
        step: Updates done before.
        mesh: Its devices.
        began: When it started, in seconds since 1970.
        more: What else is noted.
    """
    if jax.process_index() != 0:
        return
    device = mesh.devices.flat[0]
    line = {
        "step": step,
        "time": began,
        "devices": mesh.devices.size,
        "kind": device.device_kind,
        "mesh": {name: size for name, size in mesh.shape.items() if size > 1},
        "processes": jax.process_count(),
        "jax": jax.__version__,
        **program(workdir),
        **more,
    }
    path = workdir / _FILE
    before = path.read_text() if path.exists() else ""
    if before and not before.endswith("\n"):  # a kill cut the last line
        path.write_text(before[: before.rfind("\n") + 1])
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def forget_starts(workdir: Path) -> None:
    """Remove the record, where another run begins in the folder."""
    (workdir / _FILE).unlink(missing_ok=True)


def read_starts(workdir: Path) -> list[str]:
    """Return on what devices a run ran, in words and in order, repetitions left out; none if it was not recorded.

    Raises:
        InputError: The record is damaged.
    """
    try:
        return list(dict.fromkeys(_words(**line) for line in read_record(workdir)))
    except TypeError as error:
        raise InputError(f"{workdir / _FILE} is damaged ({error}); remove it.") from error


def read_record(workdir: Path) -> list[dict[str, Any]]:
    """Return what each start noted, oldest first; `record.program` says what, which earlier versions did not note.

    Raises:
        InputError: The record is damaged.
    """
    path = workdir / _FILE
    lines = read_lines(path, "remove that line")
    for number, line in enumerate(lines, 1):
        if not isinstance(line, dict):
            raise InputError(f"{path}, line {number}, is no record of a start; remove that line.")
        for key, kinds in _TYPES.items():
            if key in line and (not isinstance(line[key], kinds) or isinstance(line[key], bool)):
                raise InputError(f"{path}, line {number}: {key} is {line[key]!r}; remove that line.")
    return lines


def first_start(workdir: Path) -> tuple[float | None, int]:
    """Return when a run was started first, in seconds since 1970, None if that was not recorded, and how often.

    Raises:
        InputError: The record is damaged.
    """
    lines = read_record(workdir)
    times = [line["time"] for line in lines if "time" in line]  # earlier versions did not record it
    return times[0] if times else None, len(lines)


def read_lines(path: Path, remedy: str) -> list[Any]:
    """Return what the lines of a JSON file of lines hold, but for a last one that a kill cut; none without the file.

    Args:
        path: The file.
        remedy: What to do about a damaged line, for the message.

    Raises:
        InputError: It cannot be read, or a line before the last is damaged.
    """
    try:
        texts = path.read_text().splitlines(keepends=True) if path.exists() else []
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}).") from error
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            if number < len(texts) or text.endswith("\n"):
                raise InputError(f"{path}, line {number}, is damaged ({error}); {remedy}.") from error
    return lines


def _words(step: int, devices: int, kind: str, mesh: dict[str, int], processes: int, jax: str, **_: Any) -> str:
    parts = [f"{devices} × {kind}"]
    parts += [", ".join(f"{name}={size}" for name, size in mesh.items())] * bool(mesh)
    parts += [f"{processes} processes"] * (processes > 1)
    return f"{' '.join(parts[:1])} ({'; '.join([*parts[1:], f'JAX {jax}'])})"
