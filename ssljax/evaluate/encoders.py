"""What evaluations ask features of: the encoder of an objective, and bare pixels to compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from ssljax.errors import InputError
from ssljax.objectives.base import Objective
from ssljax.ops.augment import normalise

_PIXELS = 32  # per side: more of them make nearest neighbours slower, not better


def image_features(objective: Objective, size: int) -> Callable[[Any, Any, Any], Float[Array, "b d"]]:
    """Return `features(params, state, images)`, compiled once for all parameters; images uint8 [b, size, size, 3].

    Raises:
        InputError: The objective has no image encoder, or the encoder takes no images of this size.
    """

    def features(params: Any, state: Any, images: Any) -> Float[Array, "b d"]:
        encoders = objective.encoders(params, state)
        if "image" not in encoders:
            raise InputError(f"{type(objective).__name__} trains no image encoder; evaluate another run.")
        return encoders["image"](normalise(images.astype(jnp.float32) / 255.0)).features.astype(jnp.float32)

    params, state = jax.eval_shape(objective.init, jax.random.key(0))
    jax.eval_shape(features, params, state, jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8))
    return jax.jit(features)


@jax.jit
def pixel_features(images: UInt8[Array, "b s s 3"]) -> Float[Array, "b d"]:
    """Return the pixels themselves, of images reduced to at most 32 pixels a side (bilinear, antialiased)."""
    b, size, _, channels = images.shape
    small = min(size, _PIXELS)
    pixels = jax.image.resize(images.astype(jnp.float32) / 255.0, (b, small, small, channels), "linear")
    return pixels.reshape(b, -1)
