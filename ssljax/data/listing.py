"""Lists in a run's folder, a row of JSON a line, that are the same however often the run was restarted."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Listing:
    """Rows that each have a number, listed once each; safe to use from several threads and worker processes.

    Several processes of a run write a file each beside `path`; `gather` makes one of them.
    """

    def __init__(self, path: Path, key: str, *, process: int = 0) -> None:
        """Go on with what the files hold.

        Args:
            path: Of the list, a `.jsonl`.
            key: The name of a row's number.
            process: The number of this process of the run.
        """
        self._path = path if process == 0 else path.with_name(f"{path.stem}-{process}{path.suffix}")
        self._key, self._lock = key, threading.Lock()
        self._known = {row[key] for part in _parts(path) for row in _rows(part, key)}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock behind: a worker makes its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin in a worker with what was known by then."""
        self.__dict__.update(state, _lock=threading.Lock())

    def add(self, row: dict[str, Any]) -> None:
        """List a row, unless its number is listed."""
        with self._lock:
            if row[self._key] in self._known:
                return
            self._known.add(row[self._key])
            line = (json.dumps(row) + "\n").encode()
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(file, line)  # at once, so that the lines of several workers stay whole
            finally:
                os.close(file)


def gather(path: Path, key: str, below: int) -> None:
    """Make one list of those of all processes: rising, each number once, and only numbers that are `below`.

    What lies beyond was read ahead, or belongs to updates that will be done again.
    """
    parts = _parts(path)
    rows = {row[key]: row for part in parts for row in _rows(part, key) if row[key] < below}
    if parts:
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(rows[number]) + "\n" for number in sorted(rows)))
        temporary.replace(path)
    for part in parts:
        if part != path:
            part.unlink()


def _parts(path: Path) -> list[Path]:
    return sorted([*path.parent.glob(path.name), *path.parent.glob(f"{path.stem}-*{path.suffix}")])


def _rows(path: Path, key: str) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # cut short by a kill
            continue
        if isinstance(row, dict) and key in row:
            yield row
