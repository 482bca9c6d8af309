"""The sign of life of one process of a run, for whoever supervises it."""

from __future__ import annotations

import os
import time
from pathlib import Path

_LEAST = 1.0  # seconds between two beats of one kind: a network's folder is slow


class Heartbeat:
    """A file whose time of modification is when the next beat is due, and whose text says what is being done.

    A process is stuck when that time has passed: a supervisor needs to know neither how long an update takes nor that
    the process is compiling. `stat -c %Y WORKDIR/heartbeats/PROCESS` tells the time, `date +%s` the present one.
    """

    def __init__(self, workdir: Path, process: int, processes: int, *, step: float, other: float) -> None:
        """Begin with the first beat; the first process removes what a start with more processes left.

        Args:
            workdir: The run's folder.
            process: The number of this process.
            processes: How many there are.
            step: Seconds that one update may take.
            other: Seconds that anything else may take: starting, compiling, evaluating, saving.
        """
        folder = workdir / "heartbeats"
        folder.mkdir(parents=True, exist_ok=True)
        if process == 0:
            for path in folder.iterdir():
                if path.name.isdigit() and int(path.name) >= processes:
                    path.unlink(missing_ok=True)
        self._path, self._step, self._other = folder / str(process), step, other
        self._next = 0.0
        self.other("starting")

    def update(self, number: int) -> None:
        """Say that an update begins."""
        if time.monotonic() >= self._next:
            self._beat(f"update {number}", self._step)
            self._next = time.monotonic() + _LEAST

    def other(self, doing: str) -> None:
        """Say that something begins that may take longer than an update."""
        self._beat(doing, self._other)
        self._next = 0.0

    def _beat(self, doing: str, seconds: float) -> None:
        """Write; a full disk is no reason to end, since the time is kept in the file's entry alone."""
        now = time.time()
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_text(f"{doing}\n")
            os.utime(temporary, (now, now + seconds))
            temporary.replace(self._path)
        except OSError:
            if not self._path.exists():
                raise
            os.utime(self._path, (now, now + seconds))
