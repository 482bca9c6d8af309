"""Views of one image or clip, made on the device; map them over a batch and per-sample keys with `jax.vmap`.

Images are RGB floats in [0, 1], shaped [h, w, 3], unless said otherwise. Crops and blurs are products with small
matrices, so that accelerators never gather pixels one by one.

The compositions, `clip_views`, `image_views` and `crop_view`, take a key and nothing else decides their choices. The
operations take `draws`, independent uniform numbers in [0, 1), instead: one call of the generator for a whole clip
compiles ten times faster than calls inside maps over frames and crops.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from ssljax.ops import colour
from ssljax.ops.limits import Probability, check_colours, check_pairs, check_scales, check_sizes
from ssljax.ops.resample import resample, resample_matrix

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_TRIES = 10
CROP_DRAWS = 2 * _TRIES + 2
"""How many uniform numbers `crop_box` takes."""
PHOTOMETRIC_DRAWS = colour.JITTER_DRAWS + 5
"""How many uniform numbers `photometric` takes."""

_SIGMA = (0.1, 2.0)
# Three bfloat16 passes or tensorfloat32: finer than the 8 bits of the pixels. The default of TPUs, one pass, is not.
_PRECISION = jax.lax.Precision.HIGH


def normalise(images: Float[Array, "*b 3"]) -> Float[Array, "*b 3"]:
    """Return images in [0, 1] less ImageNet's mean colour, over its standard deviation."""
    shape = (1,) * (images.ndim - 1) + (3,)
    mean, std = jnp.reshape(jnp.asarray(IMAGENET_MEAN), shape), jnp.reshape(jnp.asarray(IMAGENET_STD), shape)
    return (images - mean) / std


def crop_box(
    draws: Float[Array, "22"],
    size: tuple[int, int],
    *,
    scale: Sequence[float],
    ratio: Sequence[float] = (3 / 4, 4 / 3),
) -> Int[Array, "4"]:
    """Return (top, left, height, width) in pixels, drawn as torchvision's RandomResizedCrop does.

    The area is uniform in `scale` times the image's, the ratio width / height log-uniform in `ratio`; of ten tries the
    first that fits is taken; if none fits, the largest central crop with a ratio in the range.

    Args:
        size: Height and width of the image.
    """
    height, width = size
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[:_TRIES])
    aspect = jnp.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * draws[_TRIES:-2])
    heights = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first = jnp.argmax(fits)
    h, w = heights[first], widths[first]
    top = jnp.floor(draws[-2] * (height - h + 1)).astype(jnp.int32)
    left = jnp.floor(draws[-1] * (width - w + 1)).astype(jnp.int32)

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
    draws: Float[Array, "13"],
    *,
    jitter: Sequence[float] = (0.4, 0.4, 0.2, 0.1),
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
    jitters, choices = draws[: colour.JITTER_DRAWS], draws[colour.JITTER_DRAWS :]
    sigma = _SIGMA[0] + (_SIGMA[1] - _SIGMA[0]) * choices[4]
    image = jnp.where(choices[0] < jitter_probability, colour.colour_jitter(image, jitters, strength=jitter), image)
    image = jnp.where(choices[1] < grey_probability, colour.greyscale(image), image)
    image = jnp.where(choices[2] < blur_probability, gaussian_blur(image, sigma), image)
    return jnp.where(choices[3] < solarise_probability, colour.solarise(image), image)


@jax.named_scope("views")
def clip_views(
    frames: UInt8[Array, "t h w 3"],
    key: Key[Array, ""],
    *,
    global_size: int = 224,
    global_scale: Sequence[float] = (0.4, 1.0),
    global_antialias: bool = False,
    local_size: int = 112,
    local_scale: Sequence[float] = (0.05, 0.4),
    locals: int = 6,
    flip_probability: Probability = 0.5,
    jitter: Sequence[float] = (0.4, 0.4, 0.2, 0.1),
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
    check_scales(global_scale=global_scale, local_scale=local_scale)
    check_colours(jitter, jitter_probability=jitter_probability, grey_probability=grey_probability)
    check_sizes(frames.shape[1:3], global_size=global_size, local_size=local_size if locals else 1)
    clip = frames.astype(jnp.float32) / 255.0
    time, height, width, _ = clip.shape
    recolour = functools.partial(
        photometric, jitter=jitter, jitter_probability=jitter_probability, grey_probability=grey_probability
    )
    shared_key, own_key = jax.random.split(key)
    shared = jax.random.uniform(shared_key, (CROP_DRAWS + 1,))
    global_box = crop_box(shared[1:], (height, width), scale=global_scale)
    flip = shared[0] < flip_probability

    def global_view(frame: Array, draws: Array) -> Array:
        view = resized_crop(frame, global_box, (global_size, global_size), antialias=global_antialias, flip=flip)
        return normalise(recolour(view, draws[:PHOTOMETRIC_DRAWS], blur_probability=global_blur_probability))

    def local_view(frame: Array, draws: Array) -> Array:
        box = crop_box(draws[PHOTOMETRIC_DRAWS:], (height, width), scale=local_scale)
        view = resized_crop(frame, box, (local_size, local_size), method="cubic", antialias=True)
        return normalise(recolour(view, draws[:PHOTOMETRIC_DRAWS], blur_probability=local_blur_probability))

    own = jax.random.uniform(own_key, (time, 1 + locals, PHOTOMETRIC_DRAWS + CROP_DRAWS))
    local_views = jax.vmap(jax.vmap(local_view, in_axes=(None, 0)))
    return jax.vmap(global_view)(clip, own[:, 0]), local_views(clip, own[:, 1:])


@jax.named_scope("views")
def image_views(
    image: UInt8[Array, "h w 3"],
    key: Key[Array, ""],
    *,
    global_size: int = 224,
    global_scale: Sequence[float] = (0.4, 1.0),
    local_size: int = 96,
    local_scale: Sequence[float] = (0.05, 0.4),
    locals: int = 8,
    flip_probability: Probability = 0.5,
    jitter: Sequence[float] = (0.4, 0.4, 0.2, 0.1),
    jitter_probability: Probability = 0.8,
    grey_probability: Probability = 0.2,
    global_blur_probabilities: Sequence[float] = (1.0, 0.1),
    global_solarise_probabilities: Sequence[float] = (0.0, 0.2),
    local_blur_probability: Probability = 0.5,
) -> tuple[Float[Array, "2 g g 3"], Float[Array, "l s s 3"]]:
    """Return two global and `locals` local views of an image, normalised, as DINO draws them (arXiv 2104.14294)."""
    check_scales(global_scale=global_scale, local_scale=local_scale)
    check_colours(jitter, jitter_probability=jitter_probability, grey_probability=grey_probability)
    check_sizes(image.shape[:2], global_size=global_size, local_size=local_size if locals else 1)
    check_pairs(
        global_blur_probabilities=global_blur_probabilities,
        global_solarise_probabilities=global_solarise_probabilities,
    )
    pixels = image.astype(jnp.float32) / 255.0
    height, width, _ = pixels.shape
    recolour = functools.partial(
        photometric, jitter=jitter, jitter_probability=jitter_probability, grey_probability=grey_probability
    )

    def view(size: int, scale: Sequence[float], draws: Array, blur: Array, solarise: Array) -> Array:
        box = crop_box(draws[PHOTOMETRIC_DRAWS:-1], (height, width), scale=scale)
        flip = draws[-1] < flip_probability
        crop = resized_crop(pixels, box, (size, size), method="cubic", antialias=True, flip=flip)
        colours = draws[:PHOTOMETRIC_DRAWS]
        return normalise(recolour(crop, colours, blur_probability=blur, solarise_probability=solarise))

    draws = jax.random.uniform(key, (2 + locals, PHOTOMETRIC_DRAWS + CROP_DRAWS + 1))
    blur, solarise = jnp.asarray(global_blur_probabilities), jnp.asarray(global_solarise_probabilities)
    return (
        jax.vmap(functools.partial(view, global_size, global_scale))(draws[:2], blur, solarise),
        jax.vmap(functools.partial(view, local_size, local_scale), in_axes=(0, None, None))(
            draws[2:], jnp.asarray(local_blur_probability), jnp.zeros(())
        ),
    )


@jax.named_scope("views")
def crop_view(
    pixels: UInt8[Array, "*t h w 3"],
    key: Key[Array, ""],
    *,
    size: int = 224,
    scale: Sequence[float] = (0.2, 1.0),
    flip_probability: Probability = 0.5,
) -> Float[Array, "*t {size} {size} 3"]:
    """Return one random resized crop of an image, or of every frame of a clip, perhaps mirrored, normalised.

    Bicubic and antialiased; box and flip are one for a whole clip. All the augmentation that MAE uses (He et al. 2022,
    section A.1).
    """
    check_scales(scale=scale)
    *time, height, width, _ = pixels.shape
    check_sizes((height, width), size=size)
    draws = jax.random.uniform(key, (CROP_DRAWS + 1,))
    box, flip = crop_box(draws[1:], (height, width), scale=scale), draws[0] < flip_probability

    def crop(image: Array) -> Array:
        return resized_crop(image.astype(jnp.float32) / 255.0, box, (size, size), method="cubic", flip=flip)

    crops = jax.vmap(crop)(pixels.reshape(-1, height, width, 3))
    return normalise(crops).reshape(*time, size, size, 3)
