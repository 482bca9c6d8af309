"""Tuples among the values that a command line gives, which absl reads more freely than a config has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ssljax.errors import InputError


def quoted(override: str, config: ConfigDict) -> str:
    """Return an override of a tuple by a path with spaces as absl reads one; others as they are."""
    name, _, value = override.partition("=")
    if " " not in value or not Path(value).exists():
        return override
    there: Any = config
    for key in name.removeprefix("--config.").split("."):
        there = there.get(key) if isinstance(there, ConfigDict) else None
    return f"{name}={(value,)!r}" if isinstance(there, tuple) else override


def check_tuples(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> None:
    """Raise InputError where an override put words into a tuple of numbers, which absl lets pass."""
    for key, value in after.items():
        if isinstance(value, Mapping):
            check_tuples(before[key], value, f"{prefix}{key}.")
        elif isinstance(value, tuple) and any(isinstance(old, int | float) for old in before[key] or ()):
            words = [new for new in value if isinstance(new, str)]
            if words:
                raise InputError(f"config.{prefix}{key} is {value}; {words[0]!r} is not a finite number.")
