"""Numbers of the command line, for argparse's `type`."""

from __future__ import annotations

import argparse
import math


def finite(text: str) -> float:
    """Return a number; argparse tells what is none, is not finite or not a number ("nan")."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    return _whole(text, 1, None)


def seed(text: str) -> int:
    """Return a whole number from 0 to 2^32 - 1, as NumPy takes seeds."""
    return _whole(text, 0, 2**32 - 1)


def _whole(text: str, least: int, most: int | None) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least or (most is not None and number > most):
        end = " on" if most is None else f" to {most}"
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}{end}")
    return number
