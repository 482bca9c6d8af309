"""Locks of files, which the kernel lets go of when the last process that has one ends, however that ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssljax.errors import InputError

_PATIENCE = 5.0  # seconds: a process that was killed holds its lock until the system has taken it apart,
_FAR = 120.0  # and one of a host that died until the file server has given that up
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def held(path: Path, patience: float = 0) -> Iterator[int | None]:
    """Hold a file's lock; give its descriptor, which a child may inherit and holds then too, or None if another has it.

    Who means to keep it waits some seconds, since others hold it for a moment to see whether it is free.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, end = os.open(path, os.O_RDWR | os.O_CREAT, 0o644), time.monotonic() + patience
    try:
        while not (free := _take(descriptor)) and time.monotonic() < end:
            time.sleep(0.05)
        yield descriptor if free else None
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def training(workdir: Path) -> Iterator[None]:
    """Hold a run's folder for one training; of several processes the first does.

    Where the file system knows no locks that is said on standard error, and nothing is held.

    Raises:
        InputError: Another process trains in the folder.
    """
    path = workdir / ".training"
    with contextlib.ExitStack() as stack:
        try:
            here = _read(path).get("host", socket.gethostname()) == socket.gethostname()
            descriptor = stack.enter_context(held(path, _PATIENCE if here else _FAR))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            remedy = "see to it that no other process trains in it"
            print(f"ssljax: {workdir} cannot be locked ({error.strerror}); {remedy}.", file=sys.stderr)
        else:
            if descriptor is None:
                told = _read(path)
                who = f"process {told['process']} on host {told['host']}" if told else "another process"
                raise InputError(f"{workdir} is being trained by {who}: wait, or stop it.")
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        yield


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> dict[str, Any]:
    """Return who held a lock last, nothing if that is not known."""
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) and {"process", "host"} <= set(told) else {}
