"""Whether an exported file means in PyTorch what its encoder means here."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssljax.objectives.base import Encoder


def largest_difference(path: Path, encoder: Encoder) -> float:
    """Return the largest absolute difference of normed features, over random images, both sides in float32."""
    from ssljax.export import torch_vit

    make = functools.partial(encoder.model.make, dtype="float32", attention="xla")
    model = dataclasses.replace(encoder.model, make=make)
    size = model.abstract.image_size
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        out = jax.jit(model)(encoder.params, jnp.asarray(images))
    ours = np.concatenate([np.asarray(out.cls)[:, None], np.asarray(out.patches)], axis=1)
    theirs = torch_vit.features(torch_vit.load(path), images, **hyperparameters(model.abstract))
    return float(np.abs(ours - theirs).max())


def hyperparameters(vit: Any) -> dict[str, Any]:
    """Return what a state dict doesn't say of its ViT."""
    return {
        "heads": vit.heads,
        "eps": vit.norm_eps,
        "offset": vit.position_offset,
        "antialias": vit.position_antialias,
    }
