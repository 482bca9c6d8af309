"""Batches moved to the devices while updates run."""

from __future__ import annotations

import contextlib
import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from jax.sharding import Mesh

from ssljax.errors import STOPPED, InputError, Stalled
from ssljax.mesh import to_mesh

_GRACE = 30.0  # seconds: for a batch that is being read while its reader is closed, and before a warning
_LOOK = 0.2  # seconds between two looks at whether to stop


class Ahead(Iterator[Any]):
    """Batches on the mesh, moved there by a thread while updates run: at most two of them wait for their update.

    An error of the source takes the place of its batch, and stays. Close it before its source. If that has a `timeout`
    (seconds), a batch that does not come for so long is an error, which tells what `reading()` of the source says.
    """

    def __init__(self, mesh: Mesh, batches: Any, batch_size: int):
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=1)  # and one is in the thread's hand
        self._error: BaseException | None = None
        self._closed, self._left = threading.Event(), False
        self._source, self._timeout, self._warned = batches, getattr(batches, "timeout", None), False
        self._thread = threading.Thread(target=self._move, args=(mesh, batches, batch_size), daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether `next` would not wait."""
        return not self._queue.empty()

    def __next__(self) -> Any:
        return self.next_unless(lambda: False)

    def next_unless(self, stopped: Callable[[], bool]) -> Any | None:
        """Return the next batch; None where `stopped` says so while it is waited for."""
        if self._error is not None:
            raise self._error
        batch = self._get(stopped)
        self._left = batch is None
        if isinstance(batch, BaseException):
            self._error = batch
            raise batch
        return batch

    def close(self) -> None:
        """Stop the thread, which ends with the batch that it is reading.

        Raises:
            Stalled: That does not come.
        """
        if isinstance(self._error, Stalled):  # told already; nothing waits for the thread any more
            return
        self._closed.set()
        self._error = self._error or ValueError("the batches are closed")
        end = time.monotonic() + min(_GRACE, self._timeout or math.inf)
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._queue.get_nowait()  # what it waits to hand over
            self._thread.join(0.01)
            if self._timeout and time.monotonic() > end:
                self._error = self._stalled(min(_GRACE, self._timeout))
                raise self._error

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        try:
            self.close()
        except Stalled as stalled:
            if error is not None:
                raise Stalled(f"{error} ({stalled})", 2 if isinstance(error, InputError) else 1) from error
            raise Stalled(str(stalled), STOPPED if self._left else 1) from None

    def _get(self, stopped: Callable[[], bool]) -> Any | None:
        began, limit = time.monotonic(), self._timeout or math.inf
        first = min(_GRACE, limit / 10)
        while True:
            with contextlib.suppress(queue.Empty):
                return self._queue.get(timeout=min(_LOOK, first))
            if stopped():
                return None
            waited = time.monotonic() - began
            if waited >= limit:
                return self._stalled(limit)
            if waited >= first and self._timeout and not self._warned:
                self._warned = True
                print(f"ssljax: waiting for data for {first:g} s so far: {self._source.reading()}.", file=sys.stderr)

    def _stalled(self, seconds: float) -> Stalled:
        self._source.abandon()
        return Stalled(
            f"No data came for {seconds:g} s: {self._source.reading()}; look at the disk or network that holds it, or "
            "raise config.loader.timeout, and run the same command again."
        )

    def _move(self, mesh: Mesh, batches: Iterator[Any], batch_size: int) -> None:
        try:
            while not self._closed.is_set():
                self._queue.put(to_mesh(mesh, next(batches), batch_size))
        except BaseException as error:  # raised by `next`, where somebody listens
            self._queue.put(error)
