"""Whether a config's numbers are ones that a run can count to or divide by."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from ssljax import build
from ssljax.data import loader
from ssljax.errors import InputError

COUNTS = (
    "batch_size",
    "epochs",
    "samples_per_epoch",
    "accumulate",
    "checkpoint.every",
    "checkpoint.keep",
    "checkpoint.keep_best",
    "log.every",
    "loader.threads",
    "loader.buffer",
)
"""Keys of every config whose values must be at least 1."""

ABOVE_0 = ("checkpoint.share", "loader.timeout")
"""Keys of every config whose values must be more than 0."""

SECONDS = ("watch.step", "watch.other")
"""Keys of every config whose values must be at least 1 second."""

NUMBERS = ("seed", "loader.workers")
"""Keys of every config whose values must be at least 0."""


def check_numbers(config: ConfigDict) -> None:
    """Check the numbers that the loop divides by or counts to, those of views, and that all are finite.

    Raises:
        InputError: One is less than it may be, or not a number.
    """
    for name, value in _leaves(config.to_dict()):
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise InputError(f"config.{name} is {value}; give a finite number.")
        if name.startswith("views.") and isinstance(value, int) and value < name.endswith("size"):
            raise InputError(f"config.{name} is {value}; give at least {int(name.endswith('size'))}.")
    for least, names in ((1, COUNTS), (1, SECONDS), (0, NUMBERS)):
        for name in names:
            value = _value(config, name)
            if not value >= least:
                raise InputError(f"config.{name} is {value}; give at least {least}.")
    for name in ABOVE_0:
        value = _value(config, name)
        if not value > 0:
            raise InputError(f"config.{name} is {value}; give more than 0.")
    if config.checkpoint.share > 1:
        raise InputError(f"config.checkpoint.share is {config.checkpoint.share}; give a part of the time, up to 1.")
    if not config.watch.step > config.loader.timeout:
        raise InputError(
            f"config.loader.timeout is {config.loader.timeout:g} s, but who watches the run takes it for dead after "
            f"config.watch.step, {config.watch.step:g} s; give the latter more."
        )
    if config.seed >= 2**32:  # JAX would take its last 32 bits
        raise InputError(f"config.seed is {config.seed}; give a number below {2**32}.")
    if build.total_steps(config) * config.batch_size >= loader.POSITIONS:
        raise InputError(
            f"config.epochs times config.samples_per_epoch is {config.epochs * config.samples_per_epoch}; a run reads "
            f"fewer than {loader.POSITIONS} samples."
        )


def _value(config: ConfigDict, name: str) -> Any:
    return functools.reduce(lambda part, key: part[key], name.split("."), config)


def _leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of all that is not a section."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
