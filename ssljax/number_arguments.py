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


def seed(text: str) -> int:
    """Return a whole number from 0 to 2^32 - 1; argparse tells what is none."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**32 - 1}")
    return value
