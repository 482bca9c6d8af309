"""Whether a checkpoint holds what was written: checksums of its files, or a full reading where there are none.

Beside what orbax writes, a folder has `checksums.json`, written last and renamed into place: the size and the BLAKE2b
digest of every other file. It says what lay on the disk when the checkpoint was complete, so any later damage shows.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

CHECKSUMS = "checksums.json"
DAMAGED = "damaged"
_METADATA = "_CHECKPOINT_METADATA"


def steps_in(directory: Path) -> list[int]:
    """Return the steps whose folders are there, sound or not, rising."""
    if not directory.is_dir():
        return []
    return sorted(int(entry.name) for entry in directory.iterdir() if entry.name.isdigit() and entry.is_dir())


def write_checksums(folder: Path) -> None:
    """Write the sizes and digests of a checkpoint's files, once they are all on the disk itself.

    Raises:
        OSError: The disk is full or failing.
    """
    files = _checksums(folder, flush=True)
    temporary = folder / f"{CHECKSUMS}.tmp"
    with temporary.open("w") as file:
        json.dump({"files": files}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / CHECKSUMS)


def digest(folder: Path) -> str:
    """Return the SHA-256 of the checksums of a checkpoint's files, which it has or which are made now."""
    path = folder / CHECKSUMS
    files = json.loads(path.read_bytes())["files"] if path.exists() else _checksums(folder)
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def fault(folder: Path, *, thorough: bool = True) -> str | None:
    """Return why a checkpoint cannot be trusted, in a few words; None where it can.

    Args:
        folder: Of the checkpoint.
        thorough: Whether to read all files (without checksums: all arrays, into this process's memory). Otherwise names
            and sizes are compared alone.
    """
    try:
        checksums = json.loads((folder / CHECKSUMS).read_bytes())
    except FileNotFoundError:
        return _unread(folder, thorough)
    except (OSError, ValueError) as error:
        return f"{CHECKSUMS} cannot be read ({error})"
    try:
        if not checksums["files"]:
            return f"{CHECKSUMS} lists no file"
        for name, (size, digest) in checksums["files"].items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes instead of {size}"
            if thorough and _size_and_digest(path)[1] != digest:
                return f"the bytes of {name} are not those that were written"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return f"{CHECKSUMS} is not what was written ({error!r})"
    return None


def newest_sound(directory: Path, *, read_only: bool) -> tuple[int | None, str]:
    """Return the newest step that can be trusted, and why the newest of all cannot where there is none such.

    Newer ones are moved to `damaged/`, and a line says so; where none can be trusted all stay where they are. One whose
    checksums are not written yet, since the process was killed, is read instead, and gets them.

    Args:
        directory: `checkpoints/` of a run.
        read_only: Nothing is moved or written, since the run may go on meanwhile.
    """
    faults: dict[Path, str] = {}
    for step in reversed(steps_in(directory)):
        folder = directory / str(step)
        reason = fault(folder)
        if reason is None:
            if not read_only and not (folder / CHECKSUMS).exists():
                write_checksums(folder)
            for damaged, why in faults.items():
                tell(damaged, why, damaged if read_only else set_aside(damaged), step)
            return step, ""
        if read_only and not folder.is_dir():  # removed by the run, which has newer ones by now
            return newest_sound(directory, read_only=True)
        faults[folder] = reason
    return None, next((f"{folder.name}: {why}" for folder, why in faults.items()), "")


def set_aside(folder: Path) -> Path:
    """Move a checkpoint out of the way, to `damaged/` beside it, and return where it lies now; nothing is deleted."""
    damaged = folder.parent / DAMAGED
    damaged.mkdir(exist_ok=True)
    names = (f"{folder.name}{suffix}" for suffix in itertools.chain([""], (f"-{i}" for i in itertools.count(2))))
    target = next(damaged / name for name in names if not (damaged / name).exists())
    folder.rename(target)
    return target


def tell(folder: Path, reason: str, target: Path, step: int) -> None:
    """Print the one line on a damaged checkpoint: where it lies now, and the step of that which takes its place."""
    moved = f" and was moved to {target}" if target != folder else ""
    print(
        f"ssljax: the checkpoint {folder} is damaged ({reason}){moved}; that of step {step} is used.", file=sys.stderr
    )


def _checksums(folder: Path, *, flush: bool = False) -> dict[str, tuple[int, str]]:
    return {str(path.relative_to(folder)): _size_and_digest(path, flush=flush) for path in _files(folder)}


def _files(folder: Path) -> list[Path]:
    ours = {CHECKSUMS, f"{CHECKSUMS}.tmp"}
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in ours)


def _size_and_digest(path: Path, *, flush: bool = False) -> tuple[int, str]:
    with path.open("rb") as file:
        if flush:
            os.fsync(file.fileno())
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
        return file.tell(), digest.hexdigest()


def _unread(folder: Path, thorough: bool) -> str | None:
    """Return why a checkpoint without checksums cannot be read, None where it can."""
    try:
        for part in (folder / _METADATA, folder / "record" / "metadata"):
            json.loads(part.read_bytes())
        if thorough:
            _read_arrays(folder / "state")
    except Exception as error:  # whatever the libraries below raise: it cannot be read
        return f"it cannot be read: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return None


def _read_arrays(folder: Path) -> Any:
    handler = ocp.PyTreeCheckpointHandler()
    kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(folder).tree)
    return handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=kinds))
