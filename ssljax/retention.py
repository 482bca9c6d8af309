"""Which of a run's checkpoints are kept, and how the others go."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from ssljax import verification
from ssljax.errors import InputError

_REMOVED = ".removed-"
_METRICS = "metrics"


def check_best_metric(name: str, reported: Collection[str]) -> None:
    """Check that the metric which ranks checkpoints, if there is one, is among those that a run reports.

    Raises:
        InputError: It is not.
    """
    if name and name not in reported:
        raise InputError(
            f"checkpoint.best_metric is {name!r}, which this run does not report; give one of "
            f"{', '.join(sorted(reported))}."
        )


class Retention(NamedTuple):
    """What is kept: the latest, and the best by a metric among those that were saved with it.

    Attributes:
        keep: How many of the latest.
        best_metric: Its name; "" where none ranks.
        best_mode: "min" or "max": which value of it is the best.
        keep_best: How many of the best.
    """

    keep: int
    best_metric: str
    best_mode: str
    keep_best: int

    def ranked(self, directory: Path, steps: Sequence[int]) -> list[tuple[int, float]]:
        """Return those of the steps that have the metric, with it, the best first."""
        values = {step: self._metric(directory / str(step)) for step in steps if self.best_metric}
        found = [(step, value) for step, value in values.items() if math.isfinite(value)]
        sign = 1.0 if self.best_mode == "min" else -1.0
        return sorted(found, key=lambda one: (sign * one[1], -one[0]))

    def remove_others(self, directory: Path, newest: int) -> None:
        """Remove what need not be kept now that `newest` is complete.

        A checkpoint that lost a file, or a part of one, does not count: it is set aside, and an older one kept for it.
        """
        sound = []
        for step in verification.steps_in(directory):
            folder = directory / str(step)
            reason = verification.fault(folder, thorough=False)
            if reason is None:
                sound.append(step)
            elif step != newest:
                verification.tell(folder, reason, verification.set_aside(folder), newest)
        if newest not in sound:
            return
        kept = {*sound[-self.keep :], *(step for step, _ in self.ranked(directory, sound)[: self.keep_best])}
        for step in sound:
            if step not in kept:
                _remove(directory / str(step))

    def _metric(self, folder: Path) -> float:
        """Return what was saved as the metric; NaN where another one ranked, or none, or where it is damaged."""
        try:
            return float(json.loads((folder / _METRICS / _METRICS).read_bytes())[self.best_metric])
        except (OSError, KeyError, TypeError, ValueError):
            return math.nan


def remove_leftovers(directory: Path) -> None:
    """Delete what a kill left of checkpoints that were being deleted."""
    for folder in directory.glob(f"{_REMOVED}*"):
        shutil.rmtree(folder)


def _remove(folder: Path) -> None:
    """Delete a checkpoint so that no part of it is ever taken for a whole, whenever the process ends."""
    hidden = folder.with_name(f"{_REMOVED}{folder.name}")
    folder.rename(hidden)
    shutil.rmtree(hidden)
