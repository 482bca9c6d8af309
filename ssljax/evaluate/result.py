"""What a protocol of evaluation returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax

from ssljax.objectives.base import Encoder


@dataclasses.dataclass(frozen=True)
class Result:
    """What a protocol found of one encoder.

    Attributes:
        metrics: Scalars by name; accuracies and overlaps are shares from 0 to 1.
        details: What is worth keeping beside them, as JSON has it: a grid of learning rates, scores of each video.
        shares: Whether the metrics are such shares, which tables give in per cent; others they give as they are.
    """

    metrics: Mapping[str, float]
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shares: bool = True


@runtime_checkable
class Evaluation(Protocol):
    """A protocol with its data opened and checked; its randomness is its own, so that it changes no training."""

    def __call__(self, encoder: Encoder, mesh: jax.sharding.Mesh) -> Result:
        """Return what an encoder of normalised images is worth."""
        ...
