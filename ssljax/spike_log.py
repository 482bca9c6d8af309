"""What a run tells of its spikes: a row each in spikes.jsonl, and when there are too many."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ssljax import spikes
from ssljax.data.listing import Listing, gather


class SpikeLog:
    """Looks at every update's loss and gradient norm, and lists those that are spikes with where their samples lie.

    Where spikes are skipped the devices have decided; otherwise this does, by the same rule, and takes all in.
    """

    def __init__(
        self,
        path: Path,
        *,
        start: int,
        batch_size: int,
        where: Callable[[int], str],
        writes: bool,
        policy: str,
        factor: float,
        window: int,
        patience: int,
    ) -> None:
        """Begin, or go on with what the file lists of updates before.

        Args:
            path: `spikes.jsonl` of a run.
            start: Updates done before.
            batch_size: Samples an update.
            where: Says of a position where the sample lies.
            writes: False in all processes but one.
            policy: "stop" or "skip".
            factor: See `spikes.judge`.
            window: See `spikes.judge`.
            patience: How many in a row may be skipped.
        """
        self._path, self._size, self._where, self._writes = path, batch_size, where, writes
        self._skips, self._patience = policy == "skip", patience
        self._factor, self._window = factor, window
        self._statistics = spikes.empty(np)
        if writes:
            gather(path, "step", start + 1)
            self._listing = Listing(path, "step")

    def see(self, number: int, metrics: Mapping[str, float]) -> str | None:
        """Take in an update; return what is wrong if the run cannot go on, as the end of a sentence on its loss."""
        loss = metrics["loss"]
        in_a_row = int(metrics.get("skipped_in_a_row", 0))
        watched = not self._skips and math.isfinite(loss)
        if in_a_row or (watched and self._is_spike(loss, metrics.get("gradient_norm", 0.0))):
            self._list(number, metrics, skipped=bool(in_a_row))
        if in_a_row > self._patience:
            return f"{loss}, and it is update {in_a_row} in a row that was skipped"
        if in_a_row or (math.isfinite(loss) and math.isfinite(metrics.get("gradient_norm", 0.0))):
            return None
        return f"{loss}" if not math.isfinite(loss) else f"{loss}, but its gradient is {metrics['gradient_norm']}"

    def _is_spike(self, *signals: float) -> bool:
        with np.errstate(all="ignore"):  # not finite ones
            values = np.asarray(signals, np.float32)
            spike, taken = spikes.judge(self._statistics, values, factor=self._factor, window=self._window, numbers=np)
        if np.all(np.isfinite(signals)):
            self._statistics = taken
        return bool(spike)

    def _list(self, number: int, metrics: Mapping[str, float], *, skipped: bool) -> None:
        if not self._writes:
            return
        told = {name: metrics[name] for name in ("loss", "gradient_norm") if name in metrics}
        values = {name: value if math.isfinite(value) else str(value) for name, value in told.items()}
        positions = range((number - 1) * self._size, number * self._size)
        samples = [{"position": position, "where": self._where(position)} for position in positions]
        self._listing.add({"step": number, **values, "skipped": skipped, "samples": samples})
        what = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in told.items())
        print(
            f"ssljax: update {number} {'was skipped as' if skipped else 'is'} a spike ({what}); its samples are in "
            f"{self._path}.",
            file=sys.stderr,
        )
