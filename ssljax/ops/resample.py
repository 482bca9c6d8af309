"""Separable resampling as matrices: resizing and cropping are two small matrix products, which accelerators like."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ssljax.errors import InputError

Scalar = Float[Array, ""] | Int[Array, ""] | float | int


def resample_matrix(
    out_size: int,
    in_size: int,
    *,
    start: Scalar = 0.0,
    extent: Scalar | None = None,
    method: str = "cubic",
    antialias: bool = True,
    crop: bool = True,
) -> Float[Array, "{out_size} {in_size}"]:
    """Return the matrix that resamples one axis: output pixels as weighted means of input pixels, rows summing to one.

    The window [start, start + extent) of the axis, in input pixels, is spread evenly over the output pixels, pixel
    centres at half-integers (`align_corners=False`).

    Without `antialias` it is `torch.nn.functional.interpolate`: 2 taps, or 4 of the cubic with a = -0.75, indices
    clamped at the edges. With it, it is Pillow's `resize` and torch's `antialias=True`: the triangle, or the cubic with
    a = -0.5 (Keys 1981), widened by the scale when shrinking, cut at the edges and renormalised.

    Args:
        out_size: Number of output pixels.
        in_size: Number of input pixels.
        start: Left end of the window; may be traced.
        extent: Length of the window, by default the rest of the axis; may be traced.
        method: "linear" or "cubic".
        antialias: Whether the filter widens when shrinking.
        crop: Whether pixels that the window doesn't touch count as absent, as if the axis had been cropped before
            (torchvision's `resized_crop`, for whole `start` and `extent`). Otherwise only the axis itself has edges
            (Pillow's `resize(box=...)`, torch's `scale_factor`).

    Raises:
        InputError: If `method` is neither of the two.
    """
    if method not in ("linear", "cubic"):
        raise InputError(f"resampling method {method!r} is unknown: use 'linear' or 'cubic'")
    extent = in_size - start if extent is None else extent
    scale = jnp.asarray(extent, jnp.float32) / out_size
    centres = start + (jnp.arange(out_size, dtype=jnp.float32) + 0.5) * scale
    low, high = (jnp.floor(start), jnp.ceil(start + extent) - 1) if crop else (0, in_size - 1)
    low, high = jnp.clip(low, 0, in_size - 1), jnp.clip(high, 0, in_size - 1)
    if antialias:
        return _filtered(centres, jnp.maximum(scale, 1.0), low, high, in_size, method)
    return _interpolated(centres, low, high, in_size, method)


def resample(
    x: Float[Array, "*b h w c"],
    rows: Float[Array, "p h"],
    columns: Float[Array, "q w"],
    *,
    precision: jax.lax.Precision = jax.lax.Precision.HIGHEST,
) -> Float[Array, "*b p q c"]:
    """Return x with its rows and columns resampled by two matrices of `resample_matrix`."""
    x = jnp.einsum("ph,...hwc->...pwc", rows, x, precision=precision)
    return jnp.einsum("qw,...pwc->...pqc", columns, x, precision=precision)


def _filtered(centres: Array, width: Array, low: Array, high: Array, in_size: int, method: str) -> Array:
    pixels = jnp.arange(in_size)
    distance = (pixels[None, :] + 0.5 - centres[:, None]) / width
    inside = (pixels >= low) & (pixels <= high)
    weights = jnp.where(inside[None, :], _kernel(distance, method, -0.5), 0.0)
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def _interpolated(centres: Array, low: Array, high: Array, in_size: int, method: str) -> Array:
    left = jnp.floor(centres - 0.5)
    pixels = jnp.arange(in_size)
    matrix = jnp.zeros((centres.size, in_size))
    for offset in range(-1, 3) if method == "cubic" else range(2):
        tap = left + offset
        hits = jnp.clip(tap, low, high)[:, None] == pixels[None, :]
        matrix += hits * _kernel(tap + 0.5 - centres, method, -0.75)[:, None]
    return matrix


def _kernel(distance: Array, method: str, a: float) -> Array:
    d = jnp.abs(distance)
    if method == "linear":
        return jnp.maximum(1.0 - d, 0.0)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((d - 5) * d + 8) * d * a - 4 * a
    return jnp.where(d < 1, near, jnp.where(d < 2, far, 0.0))
