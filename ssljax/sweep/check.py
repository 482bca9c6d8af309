"""Whether what a sweep is about to launch can run: all of it, before any of it."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from ssljax import build, configuration, limits, mesh, step
from ssljax.data import loader
from ssljax.errors import InputError
from ssljax.evaluate.knn import NEIGHBOURS
from ssljax.export import initial
from ssljax.objectives.base import Objective
from ssljax.sweep.read import Run

_METERED = ("samples_per_second", "data_wait_share", "step_time_p50", "step_time_p90", "step_time_p99", "goodput")
"""What every log has besides what a step returns."""


def one_each(runs: Sequence[Run]) -> Iterator[Run]:
    """Yield the first run of each variant: the others differ in their seeds."""
    seen: set[str] = set()
    for run in runs:
        if run.variant not in seen:
            seen.add(run.variant)
            yield run


def check_variants(location: str, runs: Sequence[Run], metrics: Sequence[str] = ()) -> None:
    """Build every part of every variant's config, opening its data and that of its evaluations.

    Args:
        location: The sweep's file, for messages.
        runs: Of it.
        metrics: Of which at least one variant must report each.

    Raises:
        InputError: One cannot be used; the sentence names the variant.
    """
    unknown = set(metrics)
    for run in one_each(runs):
        try:
            unknown -= _check(run.config, unknown)
        except InputError as error:
            raise InputError(f"{location}, variant {run.variant}: {error}") from error
    if unknown:
        raise InputError(
            f"{location} has the metrics {', '.join(sorted(unknown))}, which no protocol and no variant's training "
            "reports; mend Sweep.metrics."
        )


def _check(config: ConfigDict, metrics: Collection[str]) -> set[str]:
    """Check a variant's config, and return those of the metrics that its runs may report."""
    limits.check_numbers(config)
    devices = mesh.make_mesh(devices=jax.devices()[:1])  # the runs' own are not to be seen from here
    mesh.check_batch(devices, config.batch_size, config.accumulate)
    objective, optimizer = build.objective(config), build.optimizer(config)
    update = step.make_train_step(objective, optimizer, seed=config.seed, accumulate=config.accumulate)
    if config.init_from:
        abstract, _ = step.abstract_state(objective, optimizer, devices)
        initial.read_start(config.init_from, objective, abstract)
    _check_protocols(config, objective)
    data = build.dataset(config)
    build.check_contract(objective, data)
    loader.check(data, config.batch_size, config.loader.workers)
    if hasattr(data, "close"):
        data.close()
    patterns = [pattern for name in config.evaluate.protocols for pattern in _reported(name)]
    judged = {name for name in metrics if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}
    return judged if judged == set(metrics) else judged | _trained(config, update, objective, optimizer, devices)


def _reported(protocol: str) -> Sequence[str]:
    """Return patterns of the metrics of a protocol; one of the user's own package may report anything."""
    known = {"knn": [f"knn_{k}" for k in NEIGHBOURS], "linear": ["linear"], "correspondence": ["pck_*"]}
    return known.get(protocol, ["*" if "." in protocol else f"{protocol}_*"])


def _trained(
    config: ConfigDict,
    update: Callable[..., Any],
    objective: Objective,
    optimizer: optax.GradientTransformation,
    devices: jax.sharding.Mesh,
) -> set[str]:
    """Return the names of what training logs."""
    abstract, _ = step.abstract_state(objective, optimizer, devices)
    with jax.set_mesh(devices):
        _, metrics = jax.eval_shape(update, abstract, objective.batch_spec(config.batch_size))
    return {*_METERED, *metrics, *build.schedules(config)}


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
            give = " ".join(f"--config.evaluate.{name}.{key}=..." for key in lacks)
            raise InputError(
                f"config.evaluate.{name} lacks data: give {give}, "
                f'or leave {name!r} out of what is asked (--config.evaluate.protocols="{rest}").'
            )
    asked = ConfigDict(config.to_dict())
    asked.evaluate.every = 1  # as it would be while training
    build.evaluation(asked, objective, mesh.make_mesh())


def protocols(config: ConfigDict) -> dict[str, Any]:
    """Return the arguments of the protocols that are asked after training, by name."""
    return {name: build.asked(config, name) for name in config.evaluate.protocols}
