"""`ssljax show views`: from a config to the contact sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ssljax import build
from ssljax.errors import InputError
from ssljax.objectives.dinov2 import DINOv2
from ssljax.objectives.dora import DoRA
from ssljax.objectives.mae import MAE
from ssljax.ops import keys as rng
from ssljax.ops.masking import mask_by_noise, visible_patches
from ssljax.report.views import draw_clip_views, draw_image_views


def show_views(config: ConfigDict, output: Path, *, samples: int = 2) -> None:
    """Draw what an objective's networks see of the first samples of a config's data, at the first update.

    Raises:
        InputError: The objective makes no views that this can draw, or the data cannot be used.
    """
    objective, data = build.objective(config), build.dataset(config)
    build.check_contract(objective, data)
    items = [data[position] for position in range(samples)]
    batch = {name: np.stack([item[name] for item in items]) for name in items[0]}
    key = jax.random.fold_in(rng.named(jax.random.key(config.seed), "step"), 0)
    output.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(objective, DoRA):
        large, small = _views(objective, batch["frames"], batch["position"], key)
        _, state = objective.init(rng.named(jax.random.key(config.seed), "init"))
        _, masks = jax.jit(objective.teach)(state["teacher"]["encoder"], large, batch["position"], key)
        draw_clip_views(batch["frames"], large, np.asarray(masks), small, output)
    elif isinstance(objective, MAE):
        _draw_mae(objective, batch, key, output)
    elif isinstance(objective, DINOv2):
        seen = jax.device_get(jax.jit(objective.draw)(batch, key))
        draw_image_views(batch["image"], seen.large, seen.small, output, seen=~seen.hidden)
    elif "image" in batch and hasattr(objective, "views"):
        draw_image_views(batch["image"], *_views(objective, batch["image"], batch["position"], key), output)
    else:
        raise InputError(f"{type(objective).__name__} makes no views of images; give a config of another objective.")


def _views(objective: Any, samples: np.ndarray, position: np.ndarray, key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return the global and the local views.

    Raises:
        InputError: These are not what the objective's views are.
    """
    keys = rng.per_sample(rng.named(key, "views"), jnp.asarray(position))
    views = jax.device_get(jax.jit(jax.vmap(objective.views))(samples, keys))
    if not isinstance(views, tuple) or len(views) != 2:
        raise InputError(f"The views of {type(objective).__name__} are not global and local ones, as drawn here.")
    return views


def _draw_mae(objective: MAE, batch: dict[str, np.ndarray], key: jax.Array, output: Path) -> None:
    """Draw a masked autoencoder's view, and the patches of it that the encoder sees."""
    images, noise = jax.device_get(jax.jit(objective.draw)(batch, key))
    masking = mask_by_noise(noise, visible=visible_patches(noise.shape[1], objective.mask_ratio))
    seen = ~np.asarray(masking.hidden)
    b, t = images.shape[:2]
    if objective.frames is None:
        none = np.zeros((b, 0, 1, 1, 3), np.float32)
        draw_image_views(batch["image"], images, none, output, seen=seen[:, None])
    else:
        none, masks = (
            np.zeros((b, t, 0, 1, 1, 3), np.float32),
            np.broadcast_to(seen[:, None, None], (b, t, 1, seen.shape[1])),
        )
        draw_clip_views(batch["frames"], images, masks, none, output, names=("view", "seen"))
