"""Overrides of a config's keys: what is wrong with one, in words."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from ssljax.errors import InputError


def check_override(config: ConfigDict, override: str, location: str, error: str) -> None:
    """Raise InputError where it is this override that an error is about."""
    name, equals, value = override.partition("=")
    key = name.removeprefix("--config.")
    section, last = section_of(config, key)
    if not isinstance(section, ConfigDict) or last not in section:
        raise InputError(f"{override}: the config {location} has no key {key}{near(config, key)}.")
    if equals and f"{name}={value}" in error:
        raise InputError(f"{key} is {value!r}; give {kind_of(section, last)}.")


def section_of(config: ConfigDict, key: str) -> tuple[Any, str]:
    """Return what holds a dotted key, None if nothing does, and the key's last part."""
    *path, last = key.split(".")
    section: Any = config
    for part in path:
        section = section[part] if isinstance(section, ConfigDict) and part in section else None
    return section, last


def kind_of(section: ConfigDict, key: str) -> str:
    """Return in words what a key takes, as the value that is there says."""
    words = {bool: "yes or no (true or false)", int: "a whole number", float: "a number", str: "text"}
    return words.get(section.get_type(key), "a section" if isinstance(section[key], ConfigDict) else "a list")


def near(config: ConfigDict, key: str) -> str:
    """Return a question whether the nearest key was meant, "" where none is near."""
    found = difflib.get_close_matches(key, list(_keys(config)), n=1, cutoff=0.75)
    return f" (did you mean {found[0]}?)" if found else ""


def _keys(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Give the dotted names of all keys, also of sections."""
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, ConfigDict):
            yield from _keys(value, f"{prefix}{key}.")
