"""What the fields of a sweep may be: everything that a file may say amiss, told in one sentence."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssljax import configuration
from ssljax.errors import InputError
from ssljax.sweep import Sweep, Variant

_LONGEST = 255  # bytes of a folder's name


def call_file(location: str, file: str | None, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function of a user's file does, or what imports it.

    Args:
        location: The file, for messages.
        file: As tracebacks name it, None if that is not known.
        function: Whatever may raise there.
        arguments: Of it.

    Raises:
        InputError: It raised something, told with the line of the file.
    """
    try:
        return function(*arguments)
    except InputError as error:
        said = str(error)
        raise (error if location in said else InputError(f"{location}: {said}")) from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if file and Path(frame.filename).resolve() == Path(file).resolve()]
        where = f"{location}, line {lines[-1]}" if lines else location
        raise InputError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())}") from error


def check_fields(location: str, sweep: Sweep) -> None:
    """Check the types of all fields, names and seeds.

    Raises:
        InputError: One cannot be used; the sentence names the file and the field.
    """
    if not isinstance(sweep.config, str) or not sweep.config:
        raise InputError(f"{location}: Sweep.config is {sweep.config!r}; give a config as FILE[:ARG].")
    if isinstance(sweep.variants, str | Mapping | Variant) or not isinstance(sweep.variants, Sequence):
        raise InputError(f"{location}: Sweep.variants is {sweep.variants!r}; give a list of ssljax.sweep.Variant.")
    if not sweep.variants:
        raise InputError(f"{location} has no variants; give at least one.")
    for number, variant in enumerate(sweep.variants):
        _check_variant(location, number, variant)
    _check_names(location, [variant.name for variant in sweep.variants])
    _check_overrides(f"{location}: Sweep.overrides", sweep.overrides)
    _check_list(location, "seeds", sweep.seeds, int, "a list of different whole numbers from 0 on, such as (0, 1, 2)")
    seeds = list(sweep.seeds)
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise InputError(f"{location} has the seeds {seeds}; give different whole numbers from 0 on.")
    _check_list(location, "metrics", sweep.metrics, str, 'a list of names, such as ("knn_20",)')
    if not isinstance(sweep.varies, str):
        raise InputError(f'{location}: Sweep.varies is {sweep.varies!r}; give a dotted key of the config, or "".')


def check_differences(location: str, configs: Mapping[str, tuple[str, Any]], varies: str) -> None:
    """Check that no two variants are the same, and that the key on the horizontal axis of plots varies.

    Args:
        location: The sweep's file, for messages.
        configs: By variant: which config it begins with, and what it is, plain and without a seed.
        varies: That key, or "".

    Raises:
        InputError: They are, or it does not.
    """
    seen: dict[str, str] = {}
    for name, config in configs.items():
        same = seen.setdefault(json.dumps(config, sort_keys=True), name)
        if same != name:
            raise InputError(f"{location}: the variants {same} and {name} are the same config; leave one of them out.")
    if not varies:
        return
    values = {_at(config, varies) for _, config in configs.values()}
    if values == {""}:
        raise InputError(f"{location}: Sweep.varies is {varies!r}, a key that no variant's config has; mend it.")
    if len(values) == 1 < len(configs):
        raise InputError(
            f"{location}: Sweep.varies is {varies!r}, which is {values.pop()} in all variants; name a key that varies, "
            "or leave it out."
        )


def _at(config: Any, key: str) -> str:
    """Return the value at a dotted key as JSON, "" where there is none."""
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return ""
        config = config[part]
    return json.dumps(config)


def _check_variant(location: str, number: int, variant: Any) -> None:
    where = f"{location}: Sweep.variants[{number}]"
    if not isinstance(variant, Variant):
        raise InputError(f"{where} is {variant!r}; give a ssljax.sweep.Variant.")
    if not isinstance(variant.name, str):
        raise InputError(f"{where} has the name {variant.name!r}; give text, which names its folder.")
    _check_overrides(f"{location}: the overrides of variant {variant.name}", variant.overrides)
    if not isinstance(variant.config, str):
        raise InputError(
            f'{location}: the config of variant {variant.name} is {variant.config!r}; give FILE[:ARG], or "".'
        )


def _check_overrides(where: str, overrides: Any) -> None:
    if not isinstance(overrides, Mapping) or not all(isinstance(key, str) for key in overrides):
        raise InputError(f'{where} are {overrides!r}; give values by dotted key, such as {{"objective.objects": 3}}.')


def _check_list(location: str, field: str, values: Any, kind: type, remedy: str) -> None:
    good = isinstance(values, Sequence) and not isinstance(values, str)
    if not good or any(not isinstance(value, kind) or isinstance(value, bool) for value in values):
        raise InputError(f"{location}: Sweep.{field} is {values!r}; give {remedy}.")


def _check_names(location: str, names: Sequence[str]) -> None:
    """Raise InputError where a name can be no folder's, or two cannot lie beside each other on any file system."""
    for name in names:
        if (
            not re.fullmatch(r"[^/\s.-][^/\t\n\r]*", name)
            or len(name.encode(errors="replace")) > _LONGEST
            or not name.isprintable()
            or name in ("report", "sweep.json")
        ):
            raise InputError(
                f"{location} has a variant named {name!r}, which is to name its folder: give up to {_LONGEST} bytes "
                "with no slash that begin with no full stop, hyphen or space; report and sweep.json are taken."
            )
        alike = [other for other in names if other.casefold() == name.casefold()]
        if len(alike) > 1:
            same = f"{len(alike)} variants named {name!r}" if len(set(alike)) == 1 else f"variants named {alike}"
            raise InputError(f"{location} has {same}, the same folder on some systems; give each its own name.")


def plain_of(config: Any) -> dict[str, Any]:
    """Return a run's config without its seed, as JSON has it."""
    return {key: value for key, value in configuration.plain(config).items() if key != "seed"}
