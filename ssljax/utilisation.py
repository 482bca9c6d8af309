"""How much arithmetic an update takes, and how much the devices could do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from ssljax import flops
from ssljax.chips import chip_of
from ssljax.meter import Work
from ssljax.plan.model import model_flops, plain


def work_of(config: ConfigDict, update: Callable[..., Any], state: Any, batch: Any, devices: jax.sharding.Mesh) -> Work:
    """Return the work of a run, counted by tracing alone; what cannot be counted is told, and no reason not to train.

    Args:
        config: Of the run.
        update: Its train step. It was traced with the same shapes before, so that this takes no time, unless it
            recomputes activations or may hide products in a kernel: then the models are made anew, without.
        state: Shapes.
        batch: Shapes.
        devices: Of the run, all of the same kind.
    """
    chip = chip_of(devices.devices.flat[0].device_kind)
    peak = chip.flops * devices.size if chip else 0.0
    if jax.process_index() != 0:  # the first one logs
        return Work(0.0, peak)
    try:
        if plain(config).to_dict() == config.to_dict():
            return Work(flops.total(flops.count(update, state, batch)), peak)
        return Work(model_flops(config), peak)
    except Exception as error:  # an objective of a user's own may hold anything
        reason = " ".join(str(error).split())[:160]
        print(f"No operations are counted, and no mfu ({type(error).__name__}: {reason}).", file=sys.stderr)
        return Work(0.0, peak)
