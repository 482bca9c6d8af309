"""What an encoder discovers in a clip and where it tracks it, and how consistent those tracks are, without labels."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from ssljax.errors import InputError
from ssljax.mesh import replicate
from ssljax.models.pure import Params, Pure
from ssljax.objectives.base import Encoder
from ssljax.ops.arrays import Array
from ssljax.ops.augment import normalise
from ssljax.ops.tracker import discover, object_masks, track

_FRAMES_AT_ONCE = 8
# Of a feature's deviation from the clip's mean to the features' size: less is rounding, and not told apart.
_LEAST_DEVIATION = 1e-3


class Tracks(NamedTuple):
    """Objects followed through a clip of t frames, each a grid of n = rows * columns patches.

    Attributes:
        maps: [t, k, n], each object's attention over the patches of each frame, summing to one.
        masks: [t, k, n], the patches that belong to each object.
        features: [t, n, d], the patch tokens after the final norm.
        grid: Rows and columns of patches.
    """

    maps: Float[np.ndarray, "t k n"]
    masks: Bool[np.ndarray, "t k n"]
    features: Float[np.ndarray, "t n d"]
    grid: tuple[int, int]


class Consistency(NamedTuple):
    """Scores of `consistency`.

    Attributes:
        region: In [-2, 2].
        patch: In [-1, 1].
    """

    region: float
    patch: float


def fit_frames(frames: UInt8[np.ndarray, "t h w 3"], *, size: int, patch_size: int) -> UInt8[np.ndarray, "t p q 3"]:
    """Return the frames with their short side resized to `size` pixels, their edges cut to whole patches.

    Raises:
        InputError: `size` is less than a patch.
    """
    if size < patch_size:
        raise InputError(f"size is {size} pixels, less than one patch of {patch_size}; give at least {patch_size}.")
    height, width = frames.shape[1:3]
    scale = size / min(height, width)
    resized = (max(round(height * scale), size), max(round(width * scale), size))
    rows, columns = (side // patch_size * patch_size for side in resized)
    top, left = (resized[0] - rows) // 2, (resized[1] - columns) // 2
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    fitted = [cv2.resize(frame, resized[::-1], interpolation=method) for frame in frames]
    return np.stack(fitted)[:, top : top + rows, left : left + columns]


def track_objects(
    encoder: Encoder,
    frames: UInt8[np.ndarray, "t h w 3"],
    heads: Sequence[int],
    *,
    epsilon: float = 0.05,
    iterations: int = 30,
    layer: int = -1,
) -> Tracks:
    """Discover one object for each of `heads` in the first frame, and track it through all frames, as DoRA's teacher.

    Args:
        encoder: A ViT with its parameters.
        frames: Whole patches; see `fit_frames`.
        heads: Attention heads whose CLS attention the objects start from.
        epsilon: Of Sinkhorn-Knopp.
        iterations: Of Sinkhorn-Knopp.
        layer: The block whose attention, queries and keys are used.

    Raises:
        InputError: A head that the encoder does not have, or patches that do not divide the frames.
    """
    number = encoder.model.abstract.heads
    if not heads or not all(0 <= head < number for head in heads):
        raise InputError(f"heads is {list(heads)}, but the encoder's heads are 0 to {number - 1}; give some of those.")
    patch_size = encoder.model.abstract.patch_size
    grid = (frames.shape[1] // patch_size, frames.shape[2] // patch_size)
    starts = np.asarray(heads, np.int32)
    tracked = _track(encoder.model, encoder.params, frames, starts, epsilon=epsilon, iterations=iterations, layer=layer)
    maps, masks, features = jax.device_get(tracked)
    return Tracks(maps, masks, features, grid)


@functools.partial(jax.jit, static_argnames=("model", "epsilon", "iterations", "layer"))
def _track(
    model: Pure, params: Params, frames: Array, heads: Array, *, epsilon: float, iterations: int, layer: int
) -> tuple[Array, Array, Array]:
    def encode(frame: Array) -> tuple[Array, ...]:
        out = model(params, normalise(frame[None] / jnp.float32(255)), probe=layer)
        tokens = (out.patches, out.probe.cls_attention, out.probe.queries, out.probe.keys)
        return tuple(x[0].astype(jnp.float32) for x in tokens)

    patches, attention, queries, keys = jax.lax.map(encode, frames, batch_size=_FRAMES_AT_ONCE)
    prototypes = discover(attention[:1], queries[:1], patches[:1], heads, epsilon=epsilon, iterations=iterations)
    maps = track(prototypes, keys[None])
    return replicate((maps[0], object_masks(maps)[0], patches))


def consistency(features: Float[np.ndarray, "t n d"], masks: Bool[np.ndarray, "t k n"]) -> Consistency:
    """Return how well each tracked region's patches match themselves in the next frame, against the other regions.

    Features are centred, x - mean of x over all patches of the clip, and L2-normalised, so that what all patches share
    (nearly everything, in a random or collapsed encoder) counts for nothing; a deviation below a thousandth of the
    features' root mean square size counts as none.

    region, with r_k^t the normalised mean feature of region k in frame t:

        mean over t, k of  cos(r_k^t, r_k^{t+1}) - mean over j != k of cos(r_k^t, r_j^{t+1})

    patch, with nn(i) the patch of frame t + 1 that is most similar to patch i of frame t, by cosine:

        mean over t, k, then over i in region k, of  [nn(i) in region k] - mean over j != k of [nn(i) in region j]

    Both are about 0 where the regions are the same, where they are drawn by chance, and where the features are
    constant. patch is 1 where every patch finds its own region and no other; region is 1 where in addition regions are
    alike inside and orthogonal to each other, more where they are opposite. Regions empty in frame t or t + 1 are left
    out; 0 if all are.

    A region that stands still in a still scene is consistent too: compare with the first frame's masks held still.

    Raises:
        InputError: Fewer than two frames or two regions, so that there is nothing to compare.
    """
    frames, regions = masks.shape[:2]
    if frames < 2 or regions < 2:
        raise InputError(f"Consistency of {regions} regions in {frames} frames: give at least 2 of each.")
    size = np.sqrt(np.mean(np.sum(np.square(features, dtype=np.float64), axis=-1)))
    centred = features.astype(np.float64) - np.mean(features, axis=(0, 1), keepdims=True, dtype=np.float64)
    unit = _unit(centred, _LEAST_DEVIATION * size)
    count = masks.sum(-1)
    valid = (count[:-1] > 0) & (count[1:] > 0)
    if not valid.any() or not unit.any():
        return Consistency(0.0, 0.0)
    means = _unit(np.einsum("tkn,tnd->tkd", masks, unit) / np.maximum(count, 1)[..., None], 1e-6)
    similarity = np.einsum("tkd,tjd->tkj", means[:-1], means[1:])

    nearest = np.argmax(np.einsum("tnd,tmd->tnm", unit[:-1], unit[1:]), axis=-1)
    told_apart = np.any(unit[:-1] != 0, axis=-1)
    hits = np.take_along_axis(masks[1:], nearest[:, None, :], axis=2) & np.expand_dims(told_apart, 1)
    shares = np.einsum("tkn,tjn->tkj", masks[:-1].astype(np.float64), hits) / np.maximum(count[:-1], 1)[..., None]
    return Consistency(_own_less_others(similarity, valid), _own_less_others(shares, valid))


def overlap(masks: Bool[np.ndarray, "t k n"]) -> float:
    """Return how much the regions are one: intersection over union, the mean over frames and pairs of regions.

    0 where regions are disjoint, 1 where they are the same; a pair of empty regions counts as 0.

    Raises:
        InputError: Fewer than two regions.
    """
    regions = masks.shape[1]
    if regions < 2:
        raise InputError(f"Overlap of {regions} regions: give at least 2.")
    counts = masks.astype(np.float64)
    common = np.einsum("tkn,tjn->tkj", counts, counts)
    size = counts.sum(-1)
    union = size[:, :, None] + size[:, None, :] - common
    pairs = np.triu_indices(regions, 1)
    return float(np.mean((common / np.maximum(union, 1.0))[:, *pairs]))


def _unit(vectors: np.ndarray, least: float) -> np.ndarray:
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(norm > least, vectors / np.maximum(norm, least or 1.0), 0.0)


def _own_less_others(scores: np.ndarray, valid: np.ndarray) -> float:
    """Return the mean over valid [t, k] of scores [t, k, j] at j = k, less the mean over the valid others."""
    regions = scores.shape[-1]
    own = np.diagonal(scores, axis1=1, axis2=2)
    others = np.broadcast_to(valid[:, None, :], scores.shape) * (1 - np.eye(regions))
    number = np.sum(others, axis=-1)
    rivals = np.sum(scores * others, axis=-1) / np.maximum(number, 1)
    compared = valid & (number > 0)
    return float(np.mean(own - rivals, where=compared)) if np.any(compared) else 0.0
