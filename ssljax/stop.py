"""SIGTERM and Ctrl-C: as an end while there is nothing to save, and as a request to save and stop."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

from ssljax.errors import STOPPED

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Start:
    """While a run starts, ends the process at once with the code of a stop: there is nothing to save yet.

    An exception, as Python raises it at Ctrl-C, would be lost in the callbacks of the libraries that are loaded.
    """

    def __enter__(self) -> Start:
        """Install the handlers."""
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.listen()
        return self

    def listen(self) -> None:
        """Install the handlers again, after what may have replaced them."""
        for number in _SIGNALS:
            signal.signal(number, _end)

    def __exit__(self, *_: object) -> None:
        """Put the handlers back that were there."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"ssljax: stopped while nothing was to be saved; the same command begins, or continues, the run.\n")
    os._exit(STOPPED)


class Stop:
    """Turns SIGTERM, which is how engines announce preemption, and Ctrl-C into a request; a Ctrl-C after it interrupts.

    A second SIGTERM changes nothing: engines may signal all processes of a job, one of which passes it on.

    Attributes:
        asked: Whether this process was asked.
    """

    def __init__(self) -> None:
        """Listen from `with` on."""
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        """Install the handlers."""
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the handlers back that were there."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not one of Python's

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
