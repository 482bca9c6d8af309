"""From a sweep's file to its runs: each with its config, and the arguments of `ssljax train` that say it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ssljax import configuration
from ssljax.errors import InputError
from ssljax.overrides import kind_of, near, section_of
from ssljax.sweep import Sweep, Variant
from ssljax.sweep.fields import call_file, check_fields

FOLDER = "configs/ablations"


class Run(NamedTuple):
    """One training of a variant.

    Attributes:
        variant: Its name.
        seed: Of the run.
        location: The config it starts from, FILE[:ARG].
        config: With all that is said of it.
        overrides: What `ssljax train --config LOCATION` needs to have that config; None where no command line says it,
            such as a section that is another one altogether.
        differs: What the sweep varies, by dotted key, as JSON has it.
    """

    variant: str
    seed: int
    location: str
    config: ConfigDict
    overrides: tuple[str, ...] | None
    differs: dict[str, Any]

    @property
    def name(self) -> str:
        """Its folder in the sweep's."""
        return f"{self.variant}/seed-{self.seed}"


def read_sweep(location: str, budget: str) -> Sweep:
    """Return the sweep of a file, packaged file or module for a budget, its names and seeds checked.

    Raises:
        InputError: There is none, or it cannot be a sweep.
    """
    missing = f"{location}: no such file, packaged ablation or module"
    path = configuration.find_path(location, FOLDER, missing)
    file = None if path is None else str(path)
    module = call_file(location, file, configuration.find_module, location, FOLDER, missing)
    if not hasattr(module, "sweep"):
        raise InputError(f"{location} has no sweep(budget), which must return a ssljax.sweep.Sweep.")
    sweep = call_file(location, file or module.__file__, module.sweep, budget)
    if not isinstance(sweep, Sweep):
        raise InputError(f"sweep() of {location} returns {type(sweep).__name__}; it must return a ssljax.sweep.Sweep.")
    check_fields(location, sweep)
    return sweep


def expand(
    location: str, sweep: Sweep, overrides: Sequence[str] = (), *, only: Sequence[str] = (), seeds: int | None = None
) -> list[Run]:
    """Return the runs of a sweep, variant by variant, each with its config.

    Args:
        location: The sweep's file, for messages.
        sweep: What it says.
        overrides: Of all runs, as `--config.KEY=VALUE`.
        only: Names of variants to keep; all by default.
        seeds: How many seeds; the sweep's by default, of which so many are the first, and beyond them the next numbers.

    Raises:
        InputError: A key that a config lacks, a value of the wrong type, an unknown name, an override of what varies.
    """
    varied = list(dict.fromkeys(key for variant in sweep.variants for key in variant.overrides))
    _check_overrides(location, sweep, overrides)
    unknown = sorted(set(only) - {variant.name for variant in sweep.variants})
    if unknown:
        known = ", ".join(variant.name for variant in sweep.variants)
        raise InputError(f"--only {unknown[0]}: {location} has no such variant; give some of {known}.")
    return [
        _run(location, sweep, variant, overrides, seed, varied)
        for variant in sweep.variants
        if not only or variant.name in only
        for seed in _seeds(sweep, seeds)
    ]


def _check_overrides(location: str, sweep: Sweep, overrides: Sequence[str]) -> None:
    """Raise InputError where the user's overrides say what the sweep is there to vary."""
    for override in overrides:
        key = override.partition("=")[0].removeprefix("--config.")
        if key == "seed":
            raise InputError(f"{override}: the seeds are the sweep's; --seeds says how many.")
        for variant in sweep.variants:
            for varied, value in variant.overrides.items():
                same = key == varied or key.startswith(f"{varied}.") or varied.startswith(f"{key}.")
                if same and not callable(value):
                    raise InputError(
                        f"{override}: {location} varies {varied} (variant {variant.name}); leave it "
                        "out, or take another sweep."
                    )


def _seeds(sweep: Sweep, count: int | None) -> list[int]:
    seeds = list(sweep.seeds)
    if count is None:
        return seeds
    return [*seeds, *range(max(seeds) + 1, max(seeds) + 1 + count)][:count]


def _run(
    location: str, sweep: Sweep, variant: Variant, overrides: Sequence[str], seed: int, varied: Sequence[str]
) -> Run:
    place, whose = variant.config or sweep.config, f"{location}, variant {variant.name}"
    config = _told(whose, configuration.load, place).unlock()
    common = _set(config, sweep.overrides, whose)
    _told(whose, configuration.override, config, overrides, place).unlock()
    own = _set(config, variant.overrides, whose)
    config.seed = seed
    config.lock()
    arguments = (*_said(_arguments(common), overrides, _arguments(own)), f"--config.seed={seed}")
    given = {key: _plain(value) for key in varied if (value := _value(config, key)) is not _MISSING}
    return Run(variant.name, seed, place, config, arguments if _says(place, arguments, config) else None, given)


def _told(whose: str, function: Callable[..., ConfigDict], *arguments: Any) -> ConfigDict:
    """Return what a function does; its errors say whose they are."""
    try:
        return function(*arguments)
    except InputError as error:
        raise InputError(f"{whose}: {error}") from error


def _set(config: ConfigDict, overrides: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """Set values by dotted key, and return them as they are then."""
    given = {}
    for key, value in overrides.items():
        before, (section, last) = _value(config, key), section_of(config, key)
        if key == "seed" or before is _MISSING:
            unknown = f"the config has no such key{near(config, key)}"
            why = "the seeds are Sweep.seeds" if key == "seed" else unknown
            raise InputError(f"{whose}: {key} cannot be set, since {why}.")
        value = _called(value, before, f"{whose}: {key}") if callable(value) else value
        try:
            # a copy: the file has one object for all variants and seeds
            section[last] = copy.deepcopy(ConfigDict(value) if isinstance(value, Mapping) else value)
        except (TypeError, ValueError) as error:
            kind = kind_of(section, last)
            raise InputError(f"{whose}: {key} is {value!r}; give {kind}.") from error
        given[key] = section[last]
    return given


def _called(function: Callable[[Any], Any], before: Any, what: str) -> Any:
    """Return what a function of a sweep's file makes of the value that was there."""
    try:
        return function(before)
    except Exception as error:
        raise InputError(
            f"{what} is a function that cannot be called with the value that was there, {before!r} "
            f"({type(error).__name__}: {' '.join(str(error).split())})."
        ) from error


_MISSING = object()


def _value(config: ConfigDict, key: str) -> Any:
    section, last = section_of(config, key)
    return section[last] if isinstance(section, ConfigDict) and last in section else _MISSING


def _plain(value: Any) -> Any:
    return configuration.plain(ConfigDict({"value": value}))["value"]


def _arguments(overrides: Mapping[str, Any]) -> list[str]:
    return [f"--config.{key}={value if isinstance(value, str) else repr(value)}" for key, value in overrides.items()]


def _said(*given: Sequence[str]) -> list[str]:
    """Return all arguments but those of keys that a later list says again: those of tuples would add up."""
    keys = [{argument.partition("=")[0] for argument in arguments} for arguments in given]
    return [
        argument
        for number, arguments in enumerate(given)
        for argument in arguments
        if not any(argument.partition("=")[0] in later for later in keys[number + 1 :])
    ]


def _says(place: str, arguments: Sequence[str], config: ConfigDict) -> bool:
    """Return whether a command line with these arguments has the config, to the last value."""
    try:
        found = configuration.plain(configuration.load(place, arguments))
    except InputError:
        return False
    return json.dumps(found, sort_keys=True) == json.dumps(configuration.plain(config), sort_keys=True)
