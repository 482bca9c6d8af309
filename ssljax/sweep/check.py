"""Whether what a sweep is about to launch can run: all of it, before any of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from ssljax import build, configuration, limits, mesh
from ssljax.data import loader
from ssljax.errors import InputError
from ssljax.objectives.base import Objective
from ssljax.sweep.read import Run


def one_each(runs: Sequence[Run]) -> Iterator[Run]:
    """Yield the first run of each variant: the others differ in their seeds."""
    seen: set[str] = set()
    for run in runs:
        if run.variant not in seen:
            seen.add(run.variant)
            yield run


def check_variants(location: str, runs: Sequence[Run]) -> None:
    """Build every part of every variant's config, opening its data and that of its evaluations.

    Raises:
        InputError: One cannot be used; the sentence names the variant.
    """
    for run in one_each(runs):
        try:
            _check(run.config)
        except InputError as error:
            raise InputError(f"{location}, variant {run.variant}: {error}") from error


def _check(config: ConfigDict) -> None:
    limits.check_numbers(config)
    objective = build.objective(config)
    build.optimizer(config)
    _check_protocols(config, objective)
    data = build.dataset(config)
    build.check_contract(objective, data)
    loader.check(data, config.batch_size, config.loader.workers)
    if hasattr(data, "close"):
        data.close()


def _check_protocols(config: ConfigDict, objective: Objective) -> None:
    """Raise InputError where a protocol that is to be asked lacks its data, or cannot use it."""
    names = tuple(config.evaluate.protocols)
    for name in names:
        section = config.evaluate.get(name, {})
        lacks = [
            key for key, default in configuration.evaluate().get(name, {}).items() if default == section.get(key) == ""
        ]
        if lacks:
            rest = tuple(other for other in names if other != name)
            raise InputError(
                f"config.evaluate.{name}.{lacks[0]} is empty: give --config.evaluate.{name}.{lacks[0]}=..., or leave "
                f'{name!r} out of what is asked (--config.evaluate.protocols="{rest}").'
            )
    asked = ConfigDict(config.to_dict())
    asked.evaluate.every = 1  # as it would be while training
    build.evaluation(asked, objective, mesh.make_mesh())


def protocols(config: ConfigDict) -> dict[str, Any]:
    """Return the arguments of the protocols that are asked after training, by name."""
    return {name: build.asked(config, name) for name in config.evaluate.protocols}
