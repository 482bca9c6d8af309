"""Evaluation while a model trains: which protocols, how often."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from ssljax.errors import InputError
from ssljax.evaluate.result import Evaluation
from ssljax.objectives.base import Objective


class Periodic:
    """Protocols asked of the live encoder every so many updates, and after the last; changes nothing of the run."""

    def __init__(
        self, protocols: Mapping[str, Evaluation], objective: Objective, mesh: jax.sharding.Mesh, *, every: int
    ) -> None:
        """Check what can be checked before training.

        Args:
            protocols: By name.
            objective: Whose image encoder is evaluated.
            mesh: Of the run.
            every: Updates between evaluations; 0 for none.

        Raises:
            InputError: The objective has no image encoder, or `every` is below 0.
        """
        if every < 0:
            raise InputError(f"evaluate.every is {every}; give a number of updates, or 0 for never.")
        self._protocols, self._objective, self._mesh, self._every = protocols, objective, mesh, every

    def due(self, done: int, total: int) -> bool:
        """Return whether to evaluate after `done` of `total` updates."""
        return bool(self._every) and (done % self._every == 0 or done == total)

    def __call__(self, params: Any, state: Any) -> dict[str, float]:
        """Return the metrics of all protocols by name."""
        encoder = self._objective.encoders(params, state)["image"]
        return {
            name: value
            for protocol in self._protocols.values()
            for name, value in protocol(encoder, self._mesh).metrics.items()
        }
