"""Position embeddings: learned ones of a grid of patches, resampled to others; fixed sines and cosines."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from ssljax.errors import InputError
from ssljax.ops.resample import resample, resample_matrix

Grid = tuple[int, int]


def resample_positions(
    positions: Float[Array, "n d"], old: Grid, new: Grid, *, offset: float = 0.0, antialias: bool = False
) -> Float[Array, "m d"]:
    """Return the positions of a grid of `old` (rows, columns) for a grid of `new`, bicubically interpolated.

    Released models differ, and are reproduced so: DINO and DINOv2 `offset=0.1`, DINOv2 with registers and timm
    `antialias=True`, others neither.

    Args:
        positions: One row per patch of the old grid, row by row.
        old: Rows and columns of the old grid.
        new: Rows and columns wanted; where they are the old ones, `positions` is returned as it is.
        offset: Added to the new size before the scale factor is taken: the grid is sampled at steps of
            old / (new + offset) rather than old / new.
        antialias: Whether the filter widens when shrinking.
    """
    if old == new:
        return positions

    def matrix(o: int, n: int) -> Array:
        # Where PyTorch antialiases, it leaves an axis of unchanged length alone, whatever the scale factor.
        extent = o if antialias and n == o else o * n / (n + offset)
        return resample_matrix(n, o, extent=extent, method="cubic", antialias=antialias, crop=False)

    rows, columns = matrix(old[0], new[0]), matrix(old[1], new[1])
    return resample(positions.reshape(*old, -1), rows, columns).reshape(new[0] * new[1], -1)


def sincos_positions(width: int, grid: Grid) -> Float[Array, "n {width}"]:
    """Return fixed sine-cosine positions: a quarter each of sin x, cos x, sin y, cos y, over geometric frequencies.

    The layout of MAE (He et al. 2022): x counts columns, y rows, frequencies are 10000^(-4 i / width). MoCo v3's code
    has rows first.

    Raises:
        InputError: If the width is no multiple of 4.
    """
    if width % 4:
        raise InputError(f"width {width} is no multiple of 4, which sin-cos positions need")
    frequencies = 10000.0 ** -(jnp.arange(width // 4) / (width // 4))
    y, x = jnp.meshgrid(*(jnp.arange(size, dtype=jnp.float32) for size in grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies[None, :] for axis in (x, y)]
    return jnp.concatenate([f(a) for a in angles for f in (jnp.sin, jnp.cos)], axis=1)


def sincos_times(width: int, count: int) -> Float[Array, "{count} {width}"]:
    """Return fixed sine-cosine positions of `count` frames: half sin t, half cos t (Vaswani et al. 2017).

    Raises:
        InputError: If the width is odd.
    """
    if width % 2:
        raise InputError(f"width {width} is odd, but sines and cosines need half of it each")
    frequencies = 10000.0 ** -(jnp.arange(width // 2) / (width // 2))
    angles = jnp.arange(count, dtype=jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
