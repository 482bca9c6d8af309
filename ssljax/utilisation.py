"""How much arithmetic an update takes, and how much the devices could do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from ssljax import build, flops, step
from ssljax.chips import chip_of
from ssljax.meter import Work


def work_of(config: ConfigDict, update: Callable[..., Any], state: Any, batch: Any, devices: jax.sharding.Mesh) -> Work:
    """Return the work of a run, counted by tracing alone; what cannot be counted is told, and no reason not to train.

    Args:
        config: Of the run.
        update: Its train step. It was traced with the same shapes before, so that this takes no time, unless what it
            recomputes has to be left out.
        state: Shapes.
        batch: Shapes.
        devices: Of the run, all of the same kind.
    """
    chip = chip_of(devices.devices.flat[0].device_kind)
    peak = chip.flops * devices.size if chip else 0.0
    if jax.process_index() != 0:  # the first one logs
        return Work(0.0, peak)
    try:
        if _recomputes(config.models):
            return Work(model_flops(config, devices), peak)
        return Work(flops.total(flops.count(update, state, batch)), peak)
    except Exception as error:  # an objective of a user's own may hold anything
        reason = " ".join(str(error).split())[:160]
        print(f"No operations are counted, and no mfu ({type(error).__name__}: {reason}).", file=sys.stderr)
        return Work(0.0, peak)


def model_flops(config: ConfigDict, devices: jax.sharding.Mesh) -> float:
    """Return the operations of an update of the same models that recompute nothing; call it under the mesh."""
    config = ConfigDict(config.to_dict())
    _keep_all(config.models)
    objective, optimizer = build.objective(config), build.optimizer(config)
    update = step.make_train_step(objective, optimizer, seed=config.seed, accumulate=config.accumulate)
    state, _ = step.abstract_state(objective, optimizer, devices)
    return flops.total(flops.count(update, state, objective.batch_spec(config.batch_size)))


def _recomputes(models: ConfigDict) -> bool:
    return any(
        _recomputes(value) if isinstance(value, ConfigDict) else key == "remat" and value != "none"
        for key, value in models.items()
    )


def _keep_all(models: ConfigDict) -> None:
    for key, value in models.items():
        if isinstance(value, ConfigDict):
            _keep_all(value)
        elif key == "remat":
            models[key] = "none"
