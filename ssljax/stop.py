"""SIGTERM and Ctrl-C as a request to save and stop."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class Stop:
    """Turns SIGTERM, which is how engines announce preemption, and Ctrl-C into a request; a second interrupts at once.

    Attributes:
        asked: Whether this process was asked.
    """

    def __init__(self) -> None:
        """Listen from `with` on."""
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        """Install the handlers."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the handlers back that were there."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not one of Python's

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
