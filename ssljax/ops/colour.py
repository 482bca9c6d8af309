"""Photometric augmentations of one image, as pure functions; map them over a batch with `jax.vmap`.

Images are RGB floats in [0, 1], shaped [h, w, 3], and stay so.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

RED, GREEN, BLUE = 0.299, 0.587, 0.114
"""Luma weights of ITU-R BT.601, as Pillow's `convert("L")` uses them."""

JITTER_DRAWS = 8
"""How many uniform numbers `colour_jitter` turns into its choices."""


def luma(image: Float[Array, "h w 3"]) -> Float[Array, "h w 1"]:
    """Return the brightness of each pixel by ITU-R BT.601."""
    # Slices rather than a product with a vector: a matrix unit would round to bfloat16.
    return RED * image[..., 0:1] + GREEN * image[..., 1:2] + BLUE * image[..., 2:3]


def greyscale(image: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """Return the image without colour, its luma in all three channels."""
    return jnp.broadcast_to(luma(image), image.shape)


def blend(image: Float[Array, "h w 3"], other: Float[Array, "..."], ratio: Float[Array, ""]) -> Float[Array, "h w 3"]:
    """Return `ratio * image + (1 - ratio) * other`, clipped to [0, 1]; a ratio above one extrapolates."""
    return jnp.clip(ratio * image + (1.0 - ratio) * other, 0.0, 1.0)


def adjust_brightness(image: Float[Array, "h w 3"], ratio: Float[Array, ""]) -> Float[Array, "h w 3"]:
    """Blend with black, as torchvision's function of this name does."""
    return blend(image, jnp.zeros((1, 1, 1)), ratio)


def adjust_contrast(image: Float[Array, "h w 3"], ratio: Float[Array, ""]) -> Float[Array, "h w 3"]:
    """Blend with the uniform grey of the image's mean luma, as torchvision's function of this name does."""
    return blend(image, jnp.mean(luma(image), keepdims=True), ratio)


def adjust_saturation(image: Float[Array, "h w 3"], ratio: Float[Array, ""]) -> Float[Array, "h w 3"]:
    """Blend with the greyscale image, as torchvision's function of this name does."""
    return blend(image, luma(image), ratio)


def adjust_hue(image: Float[Array, "h w 3"], shift: Float[Array, ""]) -> Float[Array, "h w 3"]:
    """Turn the hue by `shift` (one is a full turn) keeping HSV's saturation and value.

    The way back from HSV is the closed form f(n) = v - c * clip(min(k, 4 - k), 0, 1), k = (n + 6 h) mod 6, with
    n = 5, 3, 1 for red, green and blue and chroma c = v s: no branches and no gathers.
    """
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    divisor = jnp.where(chroma > 0, chroma, 1.0)
    # Not `red == value`: inside a fusion the two may be computed apart and differ in the last bit. At the borders of
    # these comparisons the sides agree, so that a last bit does not matter.
    sextant = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / divisor,
        jnp.where(green >= blue, 2.0 + (blue - red) / divisor, 4.0 + (red - green) / divisor),
    )

    def channel(offset: int) -> Array:
        k = jnp.mod(sextant + 6.0 * shift + offset, 6.0)
        return value - chroma * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)

    return jnp.stack([channel(5), channel(3), channel(1)], axis=-1)


def solarise(image: Float[Array, "h w 3"], threshold: float = 0.5) -> Float[Array, "h w 3"]:
    """Invert what is at or above the threshold."""
    return jnp.where(image >= threshold, 1.0 - image, image)


def adjust_colour(
    image: Float[Array, "h w 3"], ratios: Float[Array, "3"], shift: Float[Array, ""], order: Int[Array, "4"]
) -> Float[Array, "h w 3"]:
    """Apply brightness (0), contrast (1), saturation (2) and hue (3), the i-th step being operation `order[i]`.

    Under `vmap` a branch costs all of its sides, so that four steps of four operations would turn the hue four times.
    The three blends keep their own order whatever the hue's place is: three blends before the hue, the hue once and
    three blends after it cover every order, with the ratio 1, which changes nothing, for those not on their side.

    Args:
        ratios: Of brightness, contrast and saturation; 1 leaves the image as it is.
        shift: Of the hue, in turns.
        order: A permutation of 0..3.
    """
    places = jnp.argsort(order)  # places[operation] is the step that does it
    blends = jnp.argsort(places[:3])  # the three blends in the order in which they come

    def blends_on_side(image: Array, before: bool) -> Array:
        def step(i: Array, image: Array) -> Array:
            operation = blends[i]
            active = (places[operation] < places[3]) == before
            grey = luma(image)
            other = jnp.where(operation == 2, grey, jnp.where(operation == 1, jnp.mean(grey, keepdims=True), 0.0))
            return blend(image, other, jnp.where(active, ratios[operation], 1.0))

        # A loop: unrolled, the compiler computes earlier steps again for each mean.
        return jax.lax.fori_loop(0, 3, step, image)

    return blends_on_side(adjust_hue(blends_on_side(image, True), shift), False)


def colour_jitter(
    image: Float[Array, "h w 3"], draws: Float[Array, "8"], *, strength: Sequence[float]
) -> Float[Array, "h w 3"]:
    """Jitter brightness, contrast, saturation and hue in random order, as torchvision's ColorJitter does.

    Args:
        draws: Independent and uniform in [0, 1).
        strength: s of each: ratios are uniform in [max(0, 1 - s), 1 + s], the shift of the hue in [-s, s] turns.
    """
    low = jnp.asarray([*(max(0.0, 1.0 - s) for s in strength[:3]), -strength[3]])
    high = jnp.asarray([*(1.0 + s for s in strength[:3]), strength[3]])
    factors = low + (high - low) * draws[:4]
    return adjust_colour(image, factors[:3], factors[3], jnp.argsort(draws[4:]))
