"""Where the time of a run goes: its updates, what they wait for, and what lies between them, restarts included."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

ACCOUNTS = ("productive", "waiting", "saving", "evaluating")
"""What the time of a run goes to; the rest are starts, the time between them, and updates that were done twice."""


class Work(NamedTuple):
    """The arithmetic of a run; 0 is what is not known.

    Attributes:
        flops: Operations of an update in matrix products and convolutions, without what is recomputed.
        peak: Operations a second of all devices together, at best.
    """

    flops: float = 0.0
    peak: float = 0.0


UNKNOWN = Work()


class Meter:
    """Times updates by when the devices were through with them; it never waits for anything itself.

    Attributes:
        restarts: How often the run was started before.
    """

    def __init__(
        self,
        *,
        samples: int,
        before: float = 0.0,
        restarts: int = 0,
        spent: Mapping[str, float] | None = None,
        work: Work = UNKNOWN,
    ) -> None:
        """Begin with no update.

        Args:
            samples: In an update.
            before: Seconds since the run was started first.
            restarts: How often it was started since.
            spent: Seconds by account that it spent until the update that this start continues from.
            work: The arithmetic of an update.
        """
        self.restarts, self._samples, self._work = restarts, samples, work
        self._spent = dict.fromkeys(ACCOUNTS, 0.0) | dict(spent or {})
        self._saved_before = self._spent["saving"]
        self._paused, self._opened, self._before = 0.0, time.monotonic(), before
        self._last = self.now()
        self._steps: list[float] = []  # of the updates since the last line
        self._waits: list[Sequence[float]] = []

    def now(self) -> float:
        """Return the seconds on a clock that stands still while it is paused."""
        return time.monotonic() - self._paused

    @contextlib.contextmanager
    def paused(self, account: str = "") -> Iterator[None]:
        """Leave what happens inside out of the times of updates, and on the account given, if any."""
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            self._paused += seconds
            if account:
                self._spent[account] += seconds

    def update(self, ended: float, waited: Sequence[float]) -> None:
        """Count an update.

        Args:
            ended: When the devices were through with it, as of `now()`.
            waited: Seconds that they stood idle before it, waiting for its data, by process.
        """
        seconds = max(0.0, ended - self._last)
        lost = min(seconds, max(waited))
        self._last = max(self._last, ended)
        self._steps.append(seconds)
        self._waits.append(waited)
        self._spent["waiting"] += lost
        self._spent["productive"] += seconds - lost

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the updates since the last call, of which there is one at least."""
        elapsed = max(sum(self._steps), 1e-9)
        p50, p90, p99 = np.percentile(self._steps, (50, 90, 99)).tolist()
        shares = np.minimum(np.sum(np.asarray(self._waits, np.float64), axis=0) / elapsed, 1.0).tolist()
        found = {"samples_per_second": len(self._steps) * self._samples / elapsed, "data_wait_share": max(shares)}
        if len(shares) > 1:
            found |= {f"data_wait_share_{process}": share for process, share in enumerate(shares)}
        found |= {"step_time_p50": p50, "step_time_p90": p90, "step_time_p99": p99}
        rate = len(self._steps) * self._work.flops / elapsed
        found |= {"model_tflops_per_second": rate / 1e12} if rate else {}
        found |= {"mfu": rate / self._work.peak} if rate and self._work.peak else {}
        memory = _peak_memory()
        found |= {"device_memory_gb": memory / 1e9} if memory else {}
        self._steps, self._waits = [], []
        saving = (self._spent["saving"] - self._saved_before) / max(time.monotonic() - self._opened, 1e-9)
        return found | {"save_share": saving, "goodput": self.shares()["productive"], "restarts": float(self.restarts)}

    def spent(self) -> dict[str, float]:
        """Return the seconds of the whole run by account."""
        return dict(self._spent)

    def wall(self) -> float:
        """Return the seconds since the run was started first, in which it may have stood still; at least those spent.

        A clock that was set back between two starts makes them too few.
        """
        return max(self._before + time.monotonic() - self._opened, sum(self._spent.values()), 1e-9)

    def shares(self) -> dict[str, float]:
        """Return the accounts as shares of that time."""
        wall = self.wall()
        return {name: seconds / wall for name, seconds in self._spent.items()}


def _peak_memory() -> float:
    """Return the bytes that the fullest of this host's devices has held at once; 0 where devices do not say."""
    return max((device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices())
