"""`ssljax show views`: from a config to the contact sheet."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ssljax import build
from ssljax.errors import InputError
from ssljax.objectives.dino import DINO
from ssljax.objectives.dora import DoRA
from ssljax.ops import keys as rng
from ssljax.report.views import draw_clip_views, draw_image_views


def show_views(config: ConfigDict, output: Path, *, samples: int = 2) -> None:
    """Draw what student and teacher see of the first samples of a config's data, its encoder at its first weights.

    Raises:
        InputError: The objective is not one whose views this can draw, or the data cannot be used.
    """
    objective, data = build.objective(config), build.dataset(config)
    build.check_contract(objective, data)
    items = [data[position] for position in range(samples)]
    batch = {name: np.stack([item[name] for item in items]) for name in items[0]}
    key = jax.random.fold_in(rng.named(jax.random.key(config.seed), "step"), 0)
    keys = rng.per_sample(rng.named(key, "views"), jnp.asarray(batch["position"]))
    output.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(objective, DoRA):
        large, small = jax.jit(jax.vmap(objective.views))(batch["frames"], keys)
        _, state = objective.init(rng.named(jax.random.key(config.seed), "init"))
        _, masks = jax.jit(objective.teach)(state["teacher"]["encoder"], large, batch["position"], key)
        draw_clip_views(batch["frames"], np.asarray(large), np.asarray(masks), np.asarray(small), output)
    elif isinstance(objective, DINO):
        large, small = jax.jit(jax.vmap(objective.views))(batch["image"], keys)
        draw_image_views(batch["image"], np.asarray(large), np.asarray(small), output)
    else:
        raise InputError(f"Views of {type(objective).__name__} cannot be drawn; give a config of DINO or DoRA.")
