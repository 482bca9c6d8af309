"""Regularisation of classifiers by their inputs: mixup, CutMix, random erasing, smoothed labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ssljax.ops.augment import CROP_DRAWS, crop_box

_ERASED = (0.02, 1 / 3)  # of the image's area
_ERASED_RATIO = (0.3, 1 / 0.3)


def smoothed(labels: Int[Array, " b"], classes: int, smoothing: float) -> Float[Array, "b {classes}"]:
    """Return distributions with `smoothing` spread over all classes and the rest on the label (Szegedy et al. 2016)."""
    return jax.nn.one_hot(labels, classes) * (1.0 - smoothing) + smoothing / classes


def mix(
    images: Float[Array, "b h w 3"],
    targets: Float[Array, "b c"],
    key: Key[Array, ""],
    *,
    mixup: float,
    cutmix: float,
) -> tuple[Float[Array, "b h w 3"], Float[Array, "b c"]]:
    """Mix each image of a batch with its partner, the batch in reverse, by mixup or by CutMix; targets in proportion.

    One draw for the whole batch, as timm does it and MAE's fine-tuning with it: each of the two in half the batches,
    or always the one whose alpha is above 0; neither where both are 0. Zhang et al. 2018 (mixup), Yun et al. 2019.

    Args:
        images: Of the batch.
        targets: Distributions over classes.
        key: Decides all.
        mixup: alpha of mixup's share, drawn from Beta(alpha, alpha).
        cutmix: alpha of CutMix's.
    """
    if not mixup and not cutmix:
        return images, targets
    which, mixing, cutting, place = jax.random.split(key, 4)
    share = jax.random.beta(mixing, mixup, mixup) if mixup else jnp.ones(())
    blended = share * images + (1.0 - share) * images[::-1]
    if cutmix:
        inside = cut_mask(jax.random.beta(cutting, cutmix, cutmix), place, (images.shape[1], images.shape[2]))
        cut = (jax.random.uniform(which) < 0.5) if mixup else jnp.asarray(True)
        blended = jnp.where(cut, jnp.where(inside[None, :, :, None], images[::-1], images), blended)
        share = jnp.where(cut, 1.0 - jnp.mean(inside), share)
    return blended, share * targets + (1.0 - share) * targets[::-1]


def cut_mask(share: Float[Array, ""], key: Key[Array, ""], size: tuple[int, int]) -> Array:
    """Return where CutMix pastes, bool [h, w]: a box of the image's proportions around a uniform centre, cut off.

    Before it is cut off at the edges its sides are sqrt(1 - share) of the image's; Yun et al. 2019, equation 2.
    """
    side = jnp.sqrt(1.0 - share)
    centres = jax.random.uniform(key, (2,))

    def inside(axis: int) -> Array:
        centre, half = jnp.floor(centres[axis] * size[axis]), jnp.floor(side * size[axis]) // 2
        index = jnp.arange(size[axis])
        return (index >= centre - half) & (index < centre + half)

    return inside(0)[:, None] & inside(1)[None, :]


def erase(image: Float[Array, "h w 3"], key: Key[Array, ""], *, probability: float) -> Float[Array, "h w 3"]:
    """Return a normalised image with a random box replaced by standard normal noise, with a probability.

    The box covers 2 % to a third of the image, its ratio is 0.3 to 1 / 0.3 (Zhong et al. 2020, with the noise of timm).
    """
    choice, box_key, noise = jax.random.split(key, 3)
    height, width, _ = image.shape
    draws = jax.random.uniform(box_key, (CROP_DRAWS,))
    top, left, h, w = crop_box(draws, (height, width), scale=_ERASED, ratio=_ERASED_RATIO)
    rows, columns = jnp.arange(height), jnp.arange(width)
    inside = ((rows >= top) & (rows < top + h))[:, None] & ((columns >= left) & (columns < left + w))[None, :]
    erased = jnp.where(inside[..., None], jax.random.normal(noise, image.shape), image)
    return jnp.where(jax.random.uniform(choice) < probability, erased, image)
