"""What protocols ask of an encoder, compiled once for all its parameters; and bare pixels to compare with."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssljax.errors import InputError
from ssljax.objectives.base import Encoder
from ssljax.ops.augment import normalise

_PIXELS = 32  # per side: more of them make nearest neighbours slower, not better

POOLS = ("features", "mean")


def encode(encoder: Encoder, images: Any, **keywords: Any) -> Any:
    """Return what an encoder returns of images uint8 [b, h, w, 3].

    Args:
        encoder: Whose model is compiled once for each shape and all parameters.
        images: On the mesh or on the host.
        keywords: Hashable ones of the model, such as `layers=(-1,)` or `probe=-1`.
    """
    return _encode(encoder.model, tuple(sorted(keywords.items())), encoder.params, images)


def pooled(encoder: Encoder, images: Any, pool: str = "features") -> Float[Array, "b d"]:
    """Return one vector for each of images uint8 [b, h, w, 3], float32.

    Args:
        encoder: See `encode`.
        images: See `encode`.
        pool: "features", the encoder's own (a ViT's CLS token); or "mean", the mean of its patch tokens.

    Raises:
        InputError: `pool` is neither.
    """
    check_pool(pool)
    return _pooled(encoder.model, pool, encoder.params, images)


def check_pool(pool: str) -> None:
    """Raise InputError where `pool` is none of `POOLS`."""
    if pool not in POOLS:
        raise InputError(f"pool is {pool!r}; give one of {', '.join(POOLS)}.")


def vectors(output: Any, pool: str) -> Float[Array, "b d"]:
    """Return one vector for each image of an encoder's output, float32; see `pooled`."""
    if pool == "mean":
        return jnp.mean(output.patches.astype(jnp.float32), axis=1)
    return output.features.astype(jnp.float32)


def check_size(encoder: Encoder, size: int) -> None:
    """Raise InputError where an encoder takes no square images of `size` pixels; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    jax.eval_shape(encoder.model, encoder.params, images)  # parameters may be shapes themselves


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode(model: Any, keywords: tuple[tuple[str, Any], ...], params: Any, images: Any) -> Any:
    return model(params, normalise(images.astype(jnp.float32) / 255.0), **dict(keywords))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _pooled(model: Any, pool: str, params: Any, images: Any) -> Float[Array, "b d"]:
    return vectors(model(params, normalise(images.astype(jnp.float32) / 255.0)), pool)


class PixelOutput(NamedTuple):
    """Pixels in the place of an encoder's output.

    Attributes:
        features: The image reduced to at most 32 pixels a side (bilinear, antialiased), as one vector.
        patches: The pixels of each patch, row by row.
    """

    features: Float[Array, "b d"]
    patches: Float[Array, "b n d"]


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Stands where an encoder's model does, and returns the pixels themselves: what any encoder must beat.

    Attributes:
        patch_size: Side of a patch in pixels.
    """

    patch_size: int

    def __call__(self, params: Any, images: Float[Array, "b h w 3"]) -> PixelOutput:
        """Return the pixels of normalised images; `params` is not used."""
        p, (b, height, width, channels) = self.patch_size, images.shape
        if height % p or width % p:
            raise InputError(f"patch size {p} does not divide an image of {height}x{width} pixels")
        small = (b, min(height, _PIXELS), min(width, _PIXELS), channels)
        reduced = jax.image.resize(images, small, "linear").reshape(b, -1)
        return PixelOutput(reduced, einops.rearrange(images, "b (h p) (w q) c -> b (h w) (p q c)", p=p, q=p))


def pixels_like(encoder: Encoder, size: int) -> Encoder:
    """Return bare pixels as an encoder with as large patches as another's has on images of `size` pixels."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    count = jax.eval_shape(encoder.model, encoder.params, images).patches.shape[1]
    return Encoder(Pixels(size // round(count**0.5)), {})  # type: ignore[arg-type]
