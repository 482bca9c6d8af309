"""Semantic segmentation in context: the labels of the nearest patches in a memory of labelled ones, nothing trained.

Balažević, Steiner, Parthasarathy, Arandjelović, Hénaff: Towards in-context scene understanding ("Hummingbird"), NeurIPS
2023, section 3.1 and its appendix on the memory; where these are silent, as its public reimplementations do it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from ssljax.data.masks import Segmented
from ssljax.errors import InputError
from ssljax.evaluate.encoders import encode
from ssljax.evaluate.masks import confusions, grid_side, intersection_over_union, on_mesh, segmented_pair
from ssljax.evaluate.numbers import check_seed
from ssljax.evaluate.result import Result
from ssljax.mesh import BATCH, BATCH_AXES, batch_parts
from ssljax.objectives.base import Encoder
from ssljax.ops import arrays
from ssljax.ops import keys as rng

_ROWS = 4096
"""Memory rows that a device compares with at once."""

Encode = Callable[[Any], Float[Array, "b n d"]]
"""Images uint8 [b, s, s, 3], split over the mesh, to the features of their patches, row by row."""


class Segmentation:
    """Segmentation in context: "segmentation_miou", and IoU by class in the details.

    Args:
        train: Images with masks that fill the memory; see `find_pairs`.
        test: Others to segment.
        classes: Their number, without what is ignored.
        size: Side in pixels that images and masks are resized to; the paper's is 512.
        labels: What the values of masks are, see `Segmented`.
        memory: Patches; see `segment_in_context`.
        neighbours: See there.
        temperature: See there.
        batch_size: Images encoded at once.
        seed: Of the memory's choice.

    Raises:
        InputError: The data cannot be used, or a number is out of its range.
    """

    def __init__(
        self,
        *,
        train: str,
        test: str,
        classes: int,
        size: int,
        labels: str = "index",
        memory: int = 1_024_000,
        neighbours: int = 30,
        temperature: float = 0.02,
        batch_size: int = 8,
        seed: int = 0,
    ) -> None:
        _check(memory, neighbours, temperature)
        check_seed(seed)
        more: dict[str, Any] = dict(classes=classes, size=size, labels=labels, batch_size=batch_size)
        self._train, self._test, self.data = segmented_pair(train, test, **more)
        self._more: dict[str, Any] = dict(memory=memory, neighbours=neighbours, temperature=temperature, seed=seed)

    def __call__(self, encoder: Encoder, mesh: jax.sharding.Mesh) -> Result:
        """Return mIoU."""
        confusion = segment_in_context(
            lambda images: encode(encoder, images).patches, self._train, self._test, mesh, **self._more
        )
        mean, shares = intersection_over_union(confusion)
        return Result({"segmentation_miou": mean}, {"iou": shares})


class Memory(NamedTuple):
    """Labelled patches, each device's rows on a leading axis that is split over the mesh.

    Attributes:
        features: Of unit length.
        labels: The share of each class among a patch's labelled pixels.
        used: Which rows hold a patch.
    """

    features: Float[Array, "devices rows d"]
    labels: Float[Array, "devices rows c"]
    used: Bool[Array, "devices rows"]


def segment_in_context(
    encode: Encode,
    train: Segmented,
    test: Iterable[tuple[np.ndarray, np.ndarray]],
    mesh: jax.sharding.Mesh,
    *,
    memory: int,
    neighbours: int = 30,
    temperature: float = 0.02,
    seed: int = 0,
) -> np.ndarray:
    """Return the confusion matrix int64 [label, prediction] of all labelled pixels of `test`.

    A test patch gets the mean of the label distributions of the patches of the memory that are nearest by cosine,
    weighted by softmax(cosine / temperature); these are upsampled bilinearly and each pixel gets the largest. The
    search is exact, over a memory that is split over the mesh.

    The memory holds as many patches of each training image, those of rarer classes likelier: the ones with the smallest
    u * (sum of n_c over the classes c in the patch), n_c being the number of the image's patches with that class, u
    uniform in [0, 1). Images are seen once, not augmented.

    Args:
        encode: See `Encode`.
        train: What fills the memory.
        test: Batches of images and masks, as `Segmented` gives them.
        mesh: Whose devices hold memory and images.
        memory: Patches, divided by the number of training images and rounded down, at least one of each.
        neighbours: How many of them are asked, at most all.
        temperature: Of the softmax.
        seed: Of the memory's choice.

    Raises:
        InputError: A number is out of its range, nothing is labelled, or the patches are no grid that masks divide
            into.
    """
    _check(memory, neighbours, temperature)
    check_seed(seed)
    with jax.set_mesh(mesh):
        bank = _filled(encode, train, mesh, max(memory // len(train), 1), seed)
        held = int(jnp.sum(bank.used))
        if not held:
            raise InputError("No pixel of the training masks is labelled; give masks that name classes.")
        neighbours = min(neighbours, held)
        confusion = np.zeros((train.classes, train.classes), np.int64)
        for images, masks, _ in on_mesh(test, mesh):
            found = _retrieved(bank, encode(images), neighbours, temperature)
            confusion += np.asarray(confusions(found, masks))
    return confusion


def _check(memory: int, neighbours: int, temperature: float) -> None:
    if min(memory, neighbours) < 1 or not 0 < temperature < math.inf:
        raise InputError(
            f"memory is {memory}, neighbours {neighbours}, temperature {temperature}; give numbers above 0."
        )


def patch_shares(masks: Int[arrays.Array, "b s s"], side: int, classes: int) -> Float[Array, "b n c"]:
    """Return the share of each class among all pixels of each patch."""
    b, size, _ = masks.shape
    pixels = masks.reshape(b, side, size // side, side, size // side)
    shares = jax.lax.map(lambda label: jnp.mean(pixels == label, axis=(2, 4)), jnp.arange(classes))
    return jnp.moveaxis(shares, 0, -1).reshape(b, side * side, classes)


def _filled(encode: Encode, train: Segmented, mesh: jax.sharding.Mesh, each: int, seed: int) -> Memory:
    bank, key = None, rng.named(jax.random.key(seed), "memory")
    for step, (images, masks, numbers) in enumerate(on_mesh(train, mesh)):
        patches = encode(images)
        count = min(each, patches.shape[1])
        if bank is None:
            steps = -(-len(train) // train.batch_size)
            rows = steps * count * (images.shape[0] // batch_parts(mesh))
            bank = _empty(mesh, rows + -rows % min(rows, _ROWS), patches.shape[2], train.classes)
        bank = _remember(bank, step, patches, masks, rng.per_sample(key, numbers), count)
    assert bank is not None  # a data set has images
    return bank


def _empty(mesh: jax.sharding.Mesh, rows: int, width: int, classes: int) -> Memory:
    def make() -> Memory:
        parts = batch_parts(mesh)
        features, labels = (jnp.zeros((parts, rows, size)) for size in (width, classes))
        return Memory(features, labels, jnp.zeros((parts, rows), bool))

    return jax.jit(make, out_shardings=jax.sharding.NamedSharding(mesh, BATCH))()


@functools.partial(jax.jit, static_argnums=5, donate_argnums=0)
def _remember(bank: Memory, step: Any, patches: Array, masks: Array, keys: Array, count: int) -> Memory:
    """Return the memory with `count` patches of each image of batch number `step` in their rows."""
    classes = bank.labels.shape[-1]
    shares = patch_shares(masks, grid_side(patches, masks.shape[1]), classes)
    present = shares > 0
    scores = jnp.einsum("bnc,bc->bn", present.astype(jnp.float32), jnp.sum(present, axis=1).astype(jnp.float32))
    scores *= jax.vmap(lambda key: jax.random.uniform(key, scores.shape[1:]))(keys)
    scores = jnp.where(jnp.any(present, axis=-1), scores, jnp.inf)
    negative, chosen = jax.lax.top_k(-scores, count)
    features = jnp.take_along_axis(_unit(patches), chosen[:, :, None], axis=1)
    labels = jnp.take_along_axis(shares, chosen[:, :, None], axis=1)
    labels /= jnp.maximum(jnp.sum(labels, axis=-1, keepdims=True), 1e-12)
    parts = Memory(features, labels, negative > -jnp.inf)

    def put(whole: Array, part: Array) -> Array:
        part = part.reshape(whole.shape[0], -1, *whole.shape[2:])
        whole = jax.lax.dynamic_update_slice_in_dim(whole, part, step * part.shape[1], axis=1)
        return jax.lax.with_sharding_constraint(whole, BATCH)

    return jax.tree.map(put, bank, parts)


def _unit(features: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    features = features.astype(jnp.float32)
    return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _retrieved(
    bank: Memory, patches: Float[Array, "b n d"], neighbours: int, temperature: float
) -> Float[Array, "b n c"]:
    """Return the label distribution of each patch: every device searches its rows for all patches."""
    b, n, d = patches.shape
    search = functools.partial(_search, neighbours=neighbours, temperature=temperature)
    found = jax.shard_map(search, in_specs=(BATCH, P()), out_specs=P(), check_vma=False)(
        bank, _unit(patches).reshape(b * n, d)
    )
    return jax.lax.with_sharding_constraint(found.reshape(b, n, -1), BATCH)


def _search(bank: Memory, queries: Float[Array, "q d"], *, neighbours: int, temperature: float) -> Float[Array, "q c"]:
    features, labels, used = (part[0] for part in bank)  # this device's
    block, count = min(_ROWS, len(used)), len(queries)

    def compare(i: Any, best: tuple[Array, Array]) -> tuple[Array, Array]:
        rows = jax.lax.dynamic_slice_in_dim(features, i * block, block)
        cosines = jnp.matmul(queries, rows.T, precision=jax.lax.Precision.HIGHEST)
        cosines = jnp.where(jax.lax.dynamic_slice_in_dim(used, i * block, block)[None], cosines, -jnp.inf)
        new = jax.lax.top_k(cosines, min(neighbours, block))
        new = new[0], new[1] + i * block
        cosines, places = (jnp.concatenate(pair, axis=1) for pair in zip(best, new, strict=True))
        top, at = jax.lax.top_k(cosines, neighbours)
        return top, jnp.take_along_axis(places, at, axis=1)

    start = jnp.full((count, neighbours), -jnp.inf), jnp.zeros((count, neighbours), jnp.int32)
    top, places = jax.lax.fori_loop(0, len(used) // block, compare, start)
    everywhere = jax.lax.all_gather(top, BATCH_AXES, axis=1, tiled=True)
    best, at = jax.lax.top_k(everywhere, neighbours)
    weights = jax.nn.softmax(best / temperature, axis=-1)
    weights = jnp.zeros_like(everywhere).at[jnp.arange(count)[:, None], at].set(weights)
    own = jax.lax.dynamic_slice_in_dim(weights, jax.lax.axis_index(BATCH_AXES) * neighbours, neighbours, axis=1)

    def add(j: Any, total: Array) -> Array:
        return total + own[:, j, None] * labels[places[:, j]]

    total = jax.lax.fori_loop(0, neighbours, add, jnp.zeros((count, labels.shape[1])))
    return jax.lax.psum(total, BATCH_AXES)
