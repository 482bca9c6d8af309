"""Views of one image or clip, made on the device; map them over a batch and per-sample keys with `jax.vmap`.

Crops and blurs are products with small matrices, so that accelerators never gather pixels one by one. Every random
choice comes from the key given. Images are RGB floats in [0, 1], shaped [h, w, 3], unless said otherwise.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from ssljax.ops import colour
from ssljax.ops.resample import resample, resample_matrix

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Probability = float | Float[Array, ""]

_TRIES = 10
_SIGMA = (0.1, 2.0)
# Three bfloat16 passes or tensorfloat32: finer than the 8 bits of the pixels. The default of TPUs, one pass, is not.
_PRECISION = jax.lax.Precision.HIGH


def normalise(images: Float[Array, "*b 3"]) -> Float[Array, "*b 3"]:
    """Return images in [0, 1] less ImageNet's mean colour, over its standard deviation."""
    shape = (1,) * (images.ndim - 1) + (3,)
    mean, std = jnp.reshape(jnp.asarray(IMAGENET_MEAN), shape), jnp.reshape(jnp.asarray(IMAGENET_STD), shape)
    return (images - mean) / std


def crop_box(
    key: Key[Array, ""],
    size: tuple[int, int],
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Int[Array, "4"]:
    """Draw (top, left, height, width) in pixels as torchvision's RandomResizedCrop does.

    The area is uniform in `scale` times the image's, the ratio width / height log-uniform in `ratio`; of ten tries the
    first that fits is taken; if none fits, the largest central crop with a ratio in the range.

    Args:
        size: Height and width of the image.
    """
    height, width = size
    area_key, ratio_key, top_key, left_key = jax.random.split(key, 4)
    area = height * width * jax.random.uniform(area_key, (_TRIES,), minval=scale[0], maxval=scale[1])
    aspect = jnp.exp(jax.random.uniform(ratio_key, (_TRIES,), minval=math.log(ratio[0]), maxval=math.log(ratio[1])))
    heights = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first = jnp.argmax(fits)
    h, w = heights[first], widths[first]
    top = jax.random.randint(top_key, (), 0, jnp.maximum(height - h, 0) + 1)
    left = jax.random.randint(left_key, (), 0, jnp.maximum(width - w, 0) + 1)

    full_h = min(height, round(width / ratio[0]))
    full_w = min(width, round(height * ratio[1]))
    central = jnp.asarray([(height - full_h) // 2, (width - full_w) // 2, full_h, full_w], jnp.int32)
    return jnp.where(fits[first], jnp.stack([top, left, h, w]), central)


def resized_crop(
    image: Float[Array, "h w c"],
    box: Int[Array, "4"],
    size: tuple[int, int],
    *,
    method: str = "linear",
    antialias: bool = True,
    flip: Bool[Array, ""] | None = None,
) -> Float[Array, "out_h out_w c"]:
    """Crop to `box` (top, left, height, width), resize to `size` and, where `flip` is true, mirror left and right.

    Equals cropping first and resizing then: no pixel outside the box contributes. Clipped to [0, 1], since cubic
    interpolation overshoots.

    Args:
        size: Height and width of the result.
        method: "linear" or "cubic".
        antialias: Whether the kernel widens with the reduction, as Pillow's does.
    """
    top, left, height, width = box.astype(jnp.float32)
    rows = resample_matrix(size[0], image.shape[0], start=top, extent=height, method=method, antialias=antialias)
    columns = resample_matrix(size[1], image.shape[1], start=left, extent=width, method=method, antialias=antialias)
    if flip is not None:
        columns = jnp.where(flip, columns[::-1], columns)
    return jnp.clip(resample(image, rows, columns, precision=_PRECISION), 0.0, 1.0)


def gaussian_blur(image: Float[Array, "h w c"], sigma: Float[Array, ""]) -> Float[Array, "h w c"]:
    """Convolve with a Gaussian of standard deviation `sigma` pixels, the edge pixels repeated outwards."""
    rows, columns = _blur_matrix(image.shape[0], sigma), _blur_matrix(image.shape[1], sigma)
    return resample(image, rows, columns, precision=_PRECISION)


def _blur_matrix(size: int, sigma: Float[Array, ""]) -> Float[Array, "n n"]:
    def gaussian(distance: Array) -> Array:
        return jnp.exp(-0.5 * jnp.square(distance / sigma))

    side = gaussian(jnp.arange(1, size + 16, dtype=jnp.float32))  # beyond 16 pixels, 8 sigma, there is nothing
    total = 1.0 + 2.0 * jnp.sum(side)
    outside = jnp.flip(jnp.cumsum(jnp.flip(side)))[:size]  # outside[i]: the mass further away than i pixels
    index = jnp.arange(size)
    matrix = gaussian((index[:, None] - index[None, :]).astype(jnp.float32))
    matrix += jnp.where(index[None, :] == 0, outside[:, None], 0.0)
    matrix += jnp.where(index[None, :] == size - 1, outside[::-1][:, None], 0.0)
    return matrix / total


def photometric(
    image: Float[Array, "h w 3"],
    key: Key[Array, ""],
    *,
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1),
    jitter_probability: Probability = 0.8,
    grey_probability: Probability = 0.2,
    blur_probability: Probability,
    solarise_probability: Probability = 0.0,
) -> Float[Array, "h w 3"]:
    """Jitter the colours, drop them, blur (sigma uniform in 0.1 to 2 pixels) and solarise, each with its probability.

    In the order and with the strengths of DINO (Caron et al. 2021) and, before it, BYOL (Grill et al. 2020, table 6).

    Args:
        jitter: Strength of brightness, contrast, saturation and hue; see `colour.colour_jitter`.
    """
    jitter_key, sigma_key, choice_key = jax.random.split(key, 3)
    choices = jax.random.uniform(choice_key, (4,))
    sigma = jax.random.uniform(sigma_key, (), minval=_SIGMA[0], maxval=_SIGMA[1])
    image = jnp.where(choices[0] < jitter_probability, colour.colour_jitter(image, jitter_key, strength=jitter), image)
    image = jnp.where(choices[1] < grey_probability, colour.greyscale(image), image)
    image = jnp.where(choices[2] < blur_probability, gaussian_blur(image, sigma), image)
    return jnp.where(choices[3] < solarise_probability, colour.solarise(image), image)


def clip_views(
    frames: UInt8[Array, "t h w 3"],
    key: Key[Array, ""],
    *,
    global_size: int = 224,
    global_scale: tuple[float, float] = (0.4, 1.0),
    global_antialias: bool = False,
    local_size: int = 112,
    local_scale: tuple[float, float] = (0.05, 0.4),
    locals: int = 6,
    flip_probability: Probability = 0.5,
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1),
    jitter_probability: Probability = 0.8,
    grey_probability: Probability = 0.2,
    global_blur_probability: Probability = 0.1,
    local_blur_probability: Probability = 0.5,
) -> tuple[Float[Array, "t g g 3"], Float[Array, "t l s s 3"]]:
    """Return one global view and `locals` local views of every frame of a clip, normalised, as DoRA draws them.

    The global box and its flip are one for the whole clip, so that an object can be followed (bilinear; the released
    code does not antialias). Each local view has its own box in its own frame (bicubic, antialiased, not flipped).
    Photometrics are drawn for each frame and each crop by itself. Venkataramanan et al. 2024 (arXiv 2310.08584) and
    the released code.
    """
    clip = frames.astype(jnp.float32) / 255.0
    time, height, width, _ = clip.shape
    box_key, flip_key, global_key, local_key = jax.random.split(key, 4)

    box = crop_box(box_key, (height, width), scale=global_scale)
    flip = jax.random.bernoulli(flip_key, flip_probability)

    def global_view(frame: Array, key: Array) -> Array:
        crop = resized_crop(frame, box, (global_size, global_size), antialias=global_antialias, flip=flip)
        return recolour(crop, key, global_blur_probability)

    def local_view(frame: Array, key: Array) -> Array:
        box_key, colour_key = jax.random.split(key)
        box = crop_box(box_key, (height, width), scale=local_scale)
        crop = resized_crop(frame, box, (local_size, local_size), method="cubic", antialias=True)
        return recolour(crop, colour_key, local_blur_probability)

    def recolour(crop: Array, key: Array, blur_probability: Probability) -> Array:
        return normalise(
            photometric(
                crop,
                key,
                jitter=jitter,
                jitter_probability=jitter_probability,
                grey_probability=grey_probability,
                blur_probability=blur_probability,
            )
        )

    local_views = jax.vmap(jax.vmap(local_view, in_axes=(None, 0)))
    return (
        jax.vmap(global_view)(clip, jax.random.split(global_key, time)),
        local_views(clip, jax.random.split(local_key, (time, locals))),
    )


def image_views(
    image: UInt8[Array, "h w 3"],
    key: Key[Array, ""],
    *,
    global_size: int = 224,
    global_scale: tuple[float, float] = (0.4, 1.0),
    local_size: int = 96,
    local_scale: tuple[float, float] = (0.05, 0.4),
    locals: int = 8,
    flip_probability: Probability = 0.5,
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1),
    jitter_probability: Probability = 0.8,
    grey_probability: Probability = 0.2,
    global_blur_probabilities: tuple[float, float] = (1.0, 0.1),
    global_solarise_probabilities: tuple[float, float] = (0.0, 0.2),
    local_blur_probability: Probability = 0.5,
) -> tuple[Float[Array, "2 g g 3"], Float[Array, "l s s 3"]]:
    """Return two global and `locals` local views of an image, normalised, as DINO draws them (arXiv 2104.14294)."""
    pixels = image.astype(jnp.float32) / 255.0
    height, width, _ = pixels.shape
    global_key, local_key = jax.random.split(key)

    def view(
        key: Array, blur: Array, solarise: Array, *, size: int, scale: tuple[float, float]
    ) -> Float[Array, "s s 3"]:
        box_key, flip_key, colour_key = jax.random.split(key, 3)
        box = crop_box(box_key, (height, width), scale=scale)
        flip = jax.random.bernoulli(flip_key, flip_probability)
        crop = resized_crop(pixels, box, (size, size), method="cubic", antialias=True, flip=flip)
        return normalise(
            photometric(
                crop,
                colour_key,
                jitter=jitter,
                jitter_probability=jitter_probability,
                grey_probability=grey_probability,
                blur_probability=blur,
                solarise_probability=solarise,
            )
        )

    def views(key: Array, blur: Array, solarise: Array, size: int, scale: tuple[float, float]) -> Array:
        keys = jax.random.split(key, blur.shape[0])
        return jax.vmap(lambda k, b, s: view(k, b, s, size=size, scale=scale))(keys, blur, solarise)

    blur, solarise = jnp.asarray(global_blur_probabilities), jnp.asarray(global_solarise_probabilities)
    return (
        views(global_key, blur, solarise, global_size, global_scale),
        views(local_key, jnp.full(locals, local_blur_probability), jnp.zeros(locals), local_size, local_scale),
    )
