"""What the protocols of segmentation share: images with masks on the mesh, and how predictions are counted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from ssljax.data.masks import IGNORED, Segmented
from ssljax.errors import InputError
from ssljax.mesh import BATCH, BATCH_AXES, batch_parts, local_rows, to_mesh
from ssljax.ops.resample import resample, resample_matrix


def segmented_pair(train: str, test: str, **more: Any) -> tuple[Segmented, Segmented, dict[str, Any]]:
    """Return two sets of images with masks, and what a record of results says of them."""
    for name, place in (("train", train), ("test", test)):
        if not place:
            raise InputError(f"No {name} set of images with masks is named; give folders of images, or lists of VOC.")
    pair = Segmented(train, **more), Segmented(test, **more)
    return *pair, {
        name: {"data": place, "images": len(data), "checksum": data.checksum}
        for name, place, data in zip(("train", "test"), (train, test), pair, strict=True)
    }


def on_mesh(
    batches: Iterable[tuple[np.ndarray, np.ndarray]], mesh: jax.sharding.Mesh
) -> Iterator[tuple[Any, Any, Any]]:
    """Yield images, masks and numbers of the images on the mesh, filled up with images that have no label."""
    size, done = 0, 0
    for images, masks in batches:
        size = size or -(-len(images) // batch_parts(mesh)) * batch_parts(mesh)
        rows = local_rows(mesh, size)
        whole = np.zeros((size, *images.shape[1:]), np.uint8), np.full((size, *masks.shape[1:]), IGNORED, np.int32)
        whole[0][: len(images)], whole[1][: len(masks)] = images, masks
        numbers = np.arange(done, done + size, dtype=np.uint32)
        yield to_mesh(mesh, tuple(array[rows] for array in (*whole, numbers)), size)
        done += len(images)


def grid_side(patches: Float[Array, "b n d"], size: int) -> int:
    """Return how many patches a side of the square image has; InputError if masks of `size` do not divide into them."""
    side = math.isqrt(patches.shape[1])
    if side * side != patches.shape[1] or size % side:
        raise InputError(
            f"An image of {size}x{size} pixels has {patches.shape[1]} patches; give a size that they divide evenly."
        )
    return side


@jax.jit
def confusions(scores: Float[Array, "b n c"], masks: Int[Array, "b s s"]) -> Int[Array, "c c"]:
    """Return how many pixels [label, prediction] have, the scores of patches being upsampled bilinearly."""
    classes, size = scores.shape[-1], masks.shape[1]
    side = grid_side(scores, size)
    matrix = resample_matrix(size, side, method="linear", antialias=False)

    def one(image: tuple[Array, Array]) -> Array:
        grid, labels = image
        predicted = jnp.argmax(resample(grid.reshape(side, side, classes), matrix, matrix), axis=-1)
        cell = jnp.where(labels >= 0, labels * classes + predicted, classes**2)
        return jnp.zeros(classes**2 + 1, jnp.int32).at[cell].add(1)[:-1].reshape(classes, classes)

    def local(scores: Array, masks: Array) -> Array:
        return jax.lax.psum(jnp.sum(jax.lax.map(one, (scores, masks)), axis=0), BATCH_AXES)

    return jax.shard_map(local, in_specs=BATCH, out_specs=P(), check_vma=False)(scores, masks)


def intersection_over_union(confusion: np.ndarray) -> tuple[float, list[float | None]]:
    """Return mIoU, and IoU = intersection / union by class; a class in no mask and no prediction has None, and no part.

    Raises:
        InputError: No pixel is labelled.
    """
    if not confusion.sum():
        raise InputError("No pixel of the test masks is labelled; give masks that name classes.")
    common = np.diagonal(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - common
    shares = [float(c / u) if u else None for c, u in zip(common, union, strict=True)]
    return float(np.mean([share for share in shares if share is not None])), shares
