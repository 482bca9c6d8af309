"""The work of one update, whatever it runs on."""

from __future__ import annotations

from typing import Any

import jax
from ml_collections import ConfigDict

from ssljax import build, flops, mesh, step

REMAT = {"vit": ("none", "dots", "full"), "mae_decoder": ("none", "dots", "full"), "resnet": ("none", "full")}
"""Models with an argument `remat`, and its values."""
ATTEND = ("vit", "mae_decoder")
"""Models whose argument `attention` may take a fused kernel, which hides its products."""


def model_flops(config: ConfigDict) -> float:
    """Return the FLOPs of one update of all devices together without recomputation: those that an MFU counts."""
    return flops.total(layer_flops(plain(config)))


def layer_flops(config: ConfigDict, *, recomputed: bool = False) -> dict[str, float]:
    """Return the FLOPs of one update of all devices together by layer, as the config says, what it recomputes too.

    What layers recompute by themselves, whatever the config says, counts if `recomputed`; see `flops.count`.
    """
    config = config.copy_and_resolve_references()
    objective, optimizer = build.objective(config), build.optimizer(config)
    one = mesh.make_mesh("", jax.local_devices()[:1])
    state, _ = step.abstract_state(objective, optimizer, one)
    update = step.make_train_step(objective, optimizer, seed=config.seed, accumulate=config.accumulate)
    shapes: Any = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    return flops.count(update, shapes, objective.batch_spec(config.batch_size), recomputed=recomputed)


def plain(config: ConfigDict, *, remat: bool = True) -> ConfigDict:
    """Return the config with its products in plain sight, and models that recompute nothing (if `remat`)."""
    config = config.copy_and_resolve_references()
    config.unlock()
    for section in config.models.values():
        section.update({"attention": "xla"} if section.name in ATTEND else {})
        section.update({"remat": "none"} if remat and section.name in REMAT else {})
    return config
