"""Exact k-nearest-neighbour classification on frozen features.

Wu, Xiong, Yu, Lin: Unsupervised feature learning via non-parametric instance discrimination, CVPR 2018, section 3.4, as
Caron et al. 2021 (arXiv 2104.14294, section 4.2) apply it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ssljax.errors import InputError
from ssljax.evaluate.encoders import POOLS, pooled
from ssljax.evaluate.labelled import described, labelled_pair
from ssljax.evaluate.result import Result
from ssljax.mesh import batch_parts, local_rows, replicate, shard_batch, to_mesh
from ssljax.objectives.base import Encoder

NEIGHBOURS = (10, 20, 100, 200)
TEMPERATURE = 0.07

Batches = Iterable[tuple[np.ndarray, np.ndarray]]
"""(images uint8 [b, s, s, 3], labels int [b]); b is the same for all batches, but for a shorter last one."""


class KNN:
    """k-NN accuracy, "knn_10" to "knn_200", on frozen features of labelled images.

    Args:
        train: A prepared set of labelled images to find neighbours among.
        test: Another with the same classes.
        size: Side of the images in pixels.
        batch_size: Images encoded at once.
        pool: What stands for an image, see `pooled`.

    Raises:
        InputError: The data cannot be used, or `pool` is unknown.
    """

    def __init__(self, *, train: str, test: str, size: int, batch_size: int = 256, pool: str = "features") -> None:
        if pool not in POOLS:
            raise InputError(f"pool is {pool!r}; give one of {', '.join(POOLS)}.")
        self.size, self._pool = size, pool
        self._pair = labelled_pair(train=train, test=test, size=size, batch_size=batch_size)
        self.data = described(train=self._pair[0], test=self._pair[1])

    def __call__(self, encoder: Encoder, mesh: jax.sharding.Mesh) -> Result:
        """Return the accuracies."""
        return Result(knn(lambda images: pooled(encoder, images, self._pool), *self._pair, mesh))


class Nearest(NamedTuple):
    """The nearest training images found so far, nearest first; of equally near ones the earlier.

    Attributes:
        similarities: Cosines, -inf where there are fewer.
        labels: Of these images.
    """

    similarities: Float[Array, "n k"]
    labels: Int[Array, "n k"]


def knn(
    encode: Callable[[Any], Float[Array, "b d"]],
    train: Batches,
    test: Batches,
    mesh: jax.sharding.Mesh,
    *,
    neighbours: Sequence[int] = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    block: int = 4096,
) -> dict[str, float]:
    """Return {"knn_K": the share of test images classified as their label} for each K of `neighbours`.

    A test image gets the class with the largest sum of exp(cosine / temperature) over its K nearest training images,
    whichever of equal classes comes first; where there are fewer than K, all of them vote. The test features are kept,
    split over the mesh; the training features pass by in blocks, so that memory grows with the test set and the block.

    Args:
        encode: Images uint8 [b, s, s, 3], split over the mesh, to features.
        train: Labelled images, read once.
        test: Labelled images, read once.
        mesh: Whose devices hold a batch's images.
        neighbours: The Ks.
        temperature: Of the votes.
        block: Training images compared at once, about.

    Raises:
        InputError: One of the sets is empty, or a K is below 1.
    """
    if not neighbours or min(neighbours) < 1:
        raise InputError(f"neighbours is {tuple(neighbours)}; give numbers of at least 1.")
    with jax.set_mesh(mesh):
        tests = list(_encoded(encode, test, mesh))
        if not tests:
            raise InputError("k-NN has no test images; give a data set that has some.")
        features, labels = _joined([part.features for part in tests]), _joined([part.labels for part in tests])
        count, classes = sum(part.images for part in tests), max(part.classes for part in tests)
        nearest, seen, pending = _nothing(features, max(neighbours)), 0, list[_Part]()
        for part in _encoded(encode, train, mesh):
            seen, classes = seen + part.images, max(classes, part.classes)
            pending.append(part)
            if len(pending) * part.features.shape[0] >= block:
                nearest, pending = _merged(nearest, features, pending), []
        if pending:
            nearest = _merged(nearest, features, pending)
        if not seen:
            raise InputError("k-NN has no training images to compare with; give a data set that has some.")
        right = jax.device_get(_right(nearest, labels, tuple(neighbours), temperature, classes))
    return {f"knn_{k}": int(n) / count for k, n in zip(neighbours, right, strict=True)}


class _Part(NamedTuple):
    """A batch on the mesh, filled up with images whose label is -1; the number of the others; 1 + the largest label."""

    features: Float[Array, "b d"]
    labels: Int[Array, " b"]
    images: int
    classes: int


def _encoded(encode: Callable[[Any], Array], batches: Batches, mesh: jax.sharding.Mesh) -> Iterator[_Part]:
    size = 0
    for images, labels in batches:
        size = size or -(-len(images) // batch_parts(mesh)) * batch_parts(mesh)
        rows = local_rows(mesh, size)

        def split(x: np.ndarray, fill: int, size: int = size, rows: list[int] = rows) -> Any:
            whole = np.full((size, *x.shape[1:]), fill, x.dtype)
            whole[: len(x)] = x
            return to_mesh(mesh, whole[rows], size)

        features = _normalised(encode(split(images, 0)))
        yield _Part(features, split(labels.astype(np.int32), -1), len(labels), int(labels.max()) + 1)


@jax.jit
def _normalised(features: Float[Array, "b d"]) -> Float[Array, "b d"]:
    features = features.astype(jnp.float32)
    return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


@jax.jit
def _joined(parts: Sequence[Array]) -> Array:
    return shard_batch(jnp.concatenate(parts))


def _nothing(features: Float[Array, "n d"], k: int) -> Nearest:
    shape = features.shape[0], k
    make = jax.jit(lambda: shard_batch(Nearest(jnp.full(shape, -jnp.inf), jnp.zeros(shape, jnp.int32))))
    return make()


def _merged(nearest: Nearest, features: Float[Array, "n d"], parts: Sequence[_Part]) -> Nearest:
    return _merge(nearest, features, [part.features for part in parts], [part.labels for part in parts])


@functools.partial(jax.jit, donate_argnums=0)
def _merge(
    nearest: Nearest, features: Float[Array, "n d"], bank: Sequence[Array], bank_labels: Sequence[Array]
) -> Nearest:
    """Return the nearest of those found before and of the bank, which every device gets whole."""
    new, labels = replicate(jnp.concatenate(bank)), replicate(jnp.concatenate(bank_labels))
    cosines = jnp.matmul(features, new.T, precision=jax.lax.Precision.HIGHEST)
    cosines = jnp.where(labels[None] >= 0, cosines, -jnp.inf)
    # First the bank's own nearest, so that what is joined to those before is k wide and not the bank.
    found, places = jax.lax.top_k(cosines, min(nearest.labels.shape[1], cosines.shape[1]))
    similarities = jnp.concatenate([nearest.similarities, found], axis=1)
    labels = jnp.concatenate([nearest.labels, labels[places]], axis=1)
    top, places = jax.lax.top_k(similarities, nearest.labels.shape[1])
    return shard_batch(Nearest(top, jnp.take_along_axis(labels, places, axis=1)))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _right(
    nearest: Nearest, labels: Int[Array, " n"], neighbours: tuple[int, ...], temperature: float, classes: int
) -> list[Int[Array, ""]]:
    """Return how many images each number of neighbours classifies as their label."""
    # Relative to the nearest: the same classes win, and nothing overflows.
    weights = jnp.exp((nearest.similarities - nearest.similarities[:, :1]) / temperature)

    def votes(labels: Array, weights: Array) -> Array:
        return jnp.zeros(classes).at[labels].add(weights)

    def right(k: int) -> Array:
        predicted = jnp.argmax(jax.vmap(votes)(nearest.labels[:, :k], weights[:, :k]), axis=-1)
        return jnp.sum(predicted == labels)

    return [right(k) for k in neighbours]
