"""Images as rows of patches, and which of the patches an encoder does not get to see."""

from __future__ import annotations

import math
from typing import NamedTuple

import einops
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

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
