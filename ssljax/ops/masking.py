"""Images as rows of patches, and which of the patches an encoder does not get to see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from ssljax.errors import InputError
from ssljax.ops import arrays


class Masking(NamedTuple):
    """A random choice of patches.

    Attributes:
        keep: [b, v], the visible patches' indices, as an encoder takes them.
        order: [b, n], each patch's place when they are sorted by their noise: patch i is `keep[:, order[:, i]]` where
            that is below v, and hidden elsewhere.
        hidden: [b, n], whether a patch is hidden; every row has the same number.
    """

    keep: Int[Array, "b v"]
    order: Int[Array, "b n"]
    hidden: Bool[Array, "b n"]


def visible_patches(patches: int, ratio: float) -> int:
    """Return how many patches are seen when the share `ratio` is hidden, rounded down as the released MAE does.

    Raises:
        InputError: The ratio is not between 0 and 1, or so few patches leave none to see, or none to predict.
    """
    if not 0 < ratio < 1:
        raise InputError(f"mask_ratio is {ratio}; give the share of the patches that is hidden, between 0 and 1.")
    visible = math.floor(patches * (1 - ratio) + 1e-6)  # 20 * (1 - 0.9) is 1.9999999999999996
    if not 0 < visible < patches:
        raise InputError(
            f"mask_ratio {ratio} of {patches} patches leaves {visible} to see and {patches - visible} to predict; give "
            "larger images, smaller patches or another ratio, so that there is at least one of each."
        )
    return visible


def mask_by_noise(noise: Float[arrays.Array, "b n"], *, visible: int) -> Masking:
    """Return the masking that shows, in each row, the `visible` patches of least noise (He et al. 2022, section 3)."""
    shuffled = jnp.argsort(noise, axis=1)
    order = jnp.argsort(shuffled, axis=1)
    return Masking(shuffled[:, :visible], order, order >= visible)


class Blocks(NamedTuple):
    """A random choice of patches in blocks, of a size that differs between rows.

    Attributes:
        hidden: [b, n], whether a patch is hidden.
        places: [b, m], the hidden patches' indices, ascending, then others up to the largest number that can be hidden.
        counted: [b, m], which of the places are hidden.
    """

    hidden: Bool[Array, "b n"]
    places: Int[Array, "b m"]
    counted: Bool[Array, "b m"]


_ASPECT = 0.3
_LEAST = 4
_TRIES = 48


def mask_blocks(keys: Key[Array, " b"], grid: tuple[int, int], *, ratio: Sequence[float]) -> Blocks:
    """Return block-wise masks, each of a number of patches that is uniform in `ratio` times all, rounded down.

    Rectangles of 4 or more patches, their shape log-uniform in 0.3 to 1 / 0.3, are laid over each other until the
    number is reached, those that would exceed it left out (Bao et al. 2022, arXiv 2106.08254, algorithm 1, with the
    numbers of DINOv2). What 48 tries leave open is filled with single patches, so that the number is exact.

    Args:
        keys: One for each mask, which depends on nothing else.
        grid: Rows and columns of the patches.
        ratio: Smallest and largest share that is hidden; at least one patch is.

    Raises:
        InputError: The shares are not ascending between 0 and 1, or so few patches leave none to hide, or none to see.
    """
    if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1] < 1:
        raise InputError(
            f"mask_ratio is {tuple(ratio)}; give the smallest and largest share that is hidden, in (0, 1)."
        )
    least, most = ratio
    patches = grid[0] * grid[1]
    largest = math.floor(patches * most + 1e-6)
    if largest < 1:
        raise InputError(f"mask_ratio {tuple(ratio)} hides none of {patches} patches; give larger images or shares.")

    def one(key: Key[Array, ""]) -> tuple[Array, Array]:
        blocks, filling, share = jax.random.split(key, 3)
        count = jnp.floor(patches * (least + (most - least) * jax.random.uniform(share))).astype(jnp.int32)
        count = jnp.clip(count, 1, largest)
        laid = _lay_blocks(jax.random.uniform(blocks, (_TRIES, 4)), count, grid).reshape(-1)
        # Patches in the order in which they are hidden: those in blocks, then the others as chance has it.
        order = jnp.argsort(jax.random.uniform(filling, (patches,)) - laid)
        return jnp.zeros(patches, bool).at[order].set(jnp.arange(patches) < count), count

    hidden, counts = jax.vmap(one)(keys)
    places = jnp.argsort(~hidden, axis=1, stable=True)[:, :largest]
    return Blocks(hidden, places, jnp.arange(largest)[None] < counts[:, None])


def _lay_blocks(draws: Float[Array, "t 4"], count: Int[Array, ""], grid: tuple[int, int]) -> Bool[Array, "r c"]:
    """Return the union of the rectangles that fit, of `count` patches at most; a row of draws is one try."""
    rows, columns = grid
    row, column = jnp.arange(rows)[:, None], jnp.arange(columns)[None, :]

    def lay(laid: Array, draw: Array) -> tuple[Array, None]:
        left = count - jnp.sum(laid)
        area = _LEAST + draw[0] * (left - _LEAST)
        side = jnp.exp((draw[1] - 0.5) * -math.log(_ASPECT))
        h = jnp.round(jnp.sqrt(area) * side).astype(jnp.int32)
        w = jnp.round(jnp.sqrt(area) / side).astype(jnp.int32)
        top = jnp.floor(draw[2] * (rows - h + 1)).astype(jnp.int32)
        start = jnp.floor(draw[3] * (columns - w + 1)).astype(jnp.int32)
        block = (row >= top) & (row < top + h) & (column >= start) & (column < start + w)
        fits = (h < rows) & (w < columns) & (jnp.sum(block & ~laid) <= left)
        return laid | (block & fits), None

    return jax.lax.scan(lay, jnp.zeros(grid, bool), draws)[0]


def patchify(images: Float[arrays.Array, "*b h w c"], patch_size: int) -> Float[Array, "*b n p"]:
    """Return the patches row by row, each with its values by (row, column, channel)."""
    pattern = "... (h p) (w q) c -> ... (h w) (p q c)"
    return jnp.asarray(einops.rearrange(images, pattern, p=patch_size, q=patch_size))


def unpatchify(patches: Float[arrays.Array, "*b n p"], grid: tuple[int, int]) -> Float[Array, "*b h w 3"]:
    """Return the RGB images of patches on a grid of (rows, columns): the inverse of `patchify`."""
    side = math.isqrt(patches.shape[-1] // 3)
    pattern = "... (h w) (p q c) -> ... (h p) (w q) c"
    return jnp.asarray(einops.rearrange(patches, pattern, h=grid[0], w=grid[1], p=side, q=side))


def patch_statistics(
    patches: Float[arrays.Array, "*b n p"],
) -> tuple[Float[Array, "*b n 1"], Float[Array, "*b n 1"]]:
    """Return each patch's mean and standard deviation over its values.

    The deviation is the root of the unbiased variance plus 1e-6, as the released MAE divides by it.
    """
    patches = jnp.asarray(patches, jnp.float32)
    mean = jnp.mean(patches, axis=-1, keepdims=True)
    return mean, jnp.sqrt(jnp.var(patches, axis=-1, keepdims=True, ddof=1) + 1e-6)
