"""Scalable self-supervised pretraining from unlabelled video and images, in JAX and Flax."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssljax.pretrained import Pretrained

__version__ = "0.1.0"


def load(path: str | os.PathLike[str], *, step: int | None = None, size: int | None = None) -> Pretrained:
    """Return the pretrained encoder of a run or of exported weights; see `ssljax.pretrained.load`."""
    from ssljax import pretrained  # here, so that importing the package costs nothing

    return pretrained.load(path, step=step, size=size)
