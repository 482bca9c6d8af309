"""Whether numbers that several protocols take are in their ranges."""

from __future__ import annotations

import math

from ssljax.errors import InputError


def check_seed(seed: int) -> None:
    """Raise InputError where a seed is below 0, or 2^32 or more, of which JAX would take the last 32 bits."""
    if not 0 <= seed < 2**32:
        raise InputError(f"seed is {seed}; give a whole number from 0 to {2**32 - 1}.")


def check_decay(weight_decay: float) -> None:
    """Raise InputError where a weight decay is below 0 or not finite."""
    if not 0 <= weight_decay < math.inf:
        raise InputError(f"weight_decay is {weight_decay}; give a finite number of at least 0.")
