"""Updates that the devices were given and that are not logged yet."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ssljax.log import Log
from ssljax.together import Heard, Together

_NOTHING = Heard(stop=False, busy=False, waited=(0.0,))
_REMEMBERED = 8


class InFlight:
    """The updates that the devices were given and that are not logged yet.

    Attributes:
        newest: The metrics of the newest update that was logged.
    """

    def __init__(self, log: Log, together: Together, check: Callable[[int, Mapping[str, float]], None]) -> None:
        """Begin with none; `check` looks at the metrics of each update, and raises where the run cannot go on."""
        self._log, self._together, self._check = log, together, check
        self._updates: collections.deque[tuple[int, Any, Any]] = collections.deque()
        self._ended: collections.deque[float] = collections.deque()  # of the oldest of them, those seen to have ended
        self._last = log.meter.now()  # the end of the newest of these
        self.newest: dict[str, float] = {}
        self._heard: dict[int, Heard] = {}

    @property
    def any(self) -> bool:
        """Whether there was any update at all."""
        return bool(self.newest or self._updates)

    def add(self, number: int, values: Any, said: Any) -> None:
        """Take in an update, its metrics on the devices, and what this process said with it."""
        self._updates.append((number, values, said))
        self._look()

    def settle(self, pending: int) -> None:
        """Wait for all updates but the newest `pending`, and log them.

        Raises:
            InputError: A loss is not finite, or too many updates in a row were skipped: what `check` raises.
        """
        while len(self._updates) > pending:
            self._look()
            number, values, said = self._updates.popleft()
            self.newest = {name: float(value) for name, value in jax.device_get(values).items()}
            ended = self._ended.popleft() if self._ended else self._log.meter.now()
            self._last = max(self._last, ended)
            self._check(number, self.newest)
            heard = self._heard[number] = self._together.hear(said)
            self._heard.pop(number - _REMEMBERED, None)
            self._log.update(number, self.newest, heard.waited, ended)

    def heard(self, number: int) -> Heard:
        """Return what all processes said with an update that is settled, one of the newest; nothing if there was none.

        Processes settle the same updates at different times, so what is decided together asks for one by its number.
        """
        return self._heard.get(number, _NOTHING)

    def _look(self) -> None:
        """Note the time for the updates that ended since the last look: some are logged only much later.

        Where several did, they share the time since then: which of them took how much of it nobody saw.
        """
        waiting = [values for _, values, _ in self._updates][len(self._ended) :]
        ended = list(itertools.takewhile(lambda values: values["loss"].is_ready(), waiting))
        now, last = self._log.meter.now(), self._last
        self._ended.extend(last + (now - last) * number / len(ended) for number in range(1, len(ended) + 1))
        self._last = now if ended else last
