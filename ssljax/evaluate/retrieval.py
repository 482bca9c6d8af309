"""Image retrieval by the cosine of frozen features: of the same class, and the revisited Oxford and Paris buildings.

Radenović, Iscen, Tolias, Avrithis, Chum: Revisiting Oxford and Paris: large-scale image retrieval benchmarking, CVPR
2018.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ssljax.data.images import Labelled
from ssljax.data.landmarks import read_landmarks
from ssljax.errors import InputError
from ssljax.evaluate.encoders import POOLS, pooled
from ssljax.evaluate.labelled import described
from ssljax.evaluate.result import Result
from ssljax.mesh import batch_parts, local_rows, replicate, to_mesh
from ssljax.objectives.base import Encoder

RECALLS = (1, 5, 10)
_QUERIES = 256
"""Queries that are ranked at once, about."""


class Retrieval:
    """Retrieval within one labelled set: "retrieval_map", and "retrieval_recall_1", "_5", "_10".

    Args:
        data: A prepared set of labelled images; each in turn asks for the others of its class.
        size: Side of the images in pixels.
        batch_size: Images encoded at once.
        pool: What stands for an image, see `pooled`.

    Raises:
        InputError: The data cannot be used, or `pool` is unknown.
    """

    def __init__(self, *, data: str, size: int, batch_size: int = 256, pool: str = "features") -> None:
        if not data:
            raise InputError("Retrieval needs labelled images; give a prepared folder.")
        _check_pool(pool)
        self._labelled, self._pool = Labelled(data, size=size, batch_size=batch_size), pool
        self.data = described(test=self._labelled)

    def __call__(self, encoder: Encoder, mesh: jax.sharding.Mesh) -> Result:
        """Return mean average precision and recalls."""
        features, labels = encoded(encoder, self._labelled, mesh, self._pool)
        precisions, firsts = retrieve(features, labels, mesh)
        metrics = {"retrieval_map": float(np.mean(precisions))}
        metrics |= {f"retrieval_recall_{k}": float(np.mean(firsts < k)) for k in RECALLS}
        return Result(metrics, {"without_others": len(labels) - len(precisions)})


class Revisited:
    """The revisited Oxford and Paris: "revisited_map_easy", "_medium", "_hard"; precisions at 1, 5, 10 in the details.

    Images are resized to squares at one scale, queries cut to their boxes before; the papers keep the sides' ratio.

    Args:
        data: The ground truth as JSON, see `read_landmarks`, beside the folder jpg with the images.
        size: Side of the images in pixels.
        batch_size: Images encoded at once.
        pool: What stands for an image, see `pooled`.

    Raises:
        InputError: The data cannot be used, or `pool` is unknown.
    """

    def __init__(self, *, data: str, size: int, batch_size: int = 64, pool: str = "features") -> None:
        _check_pool(pool)
        if min(size, batch_size) < 1:
            raise InputError(f"size is {size} and batch_size {batch_size}; give at least 1.")
        self._landmarks, self._size, self._batch, self._pool = read_landmarks(data), size, batch_size, pool
        self.data = {"data": data, "images": len(self._landmarks.images), "queries": len(self._landmarks.queries)}

    def __call__(self, encoder: Encoder, mesh: jax.sharding.Mesh) -> Result:
        """Return mean average precisions."""
        landmarks = self._landmarks
        features, _ = encoded(encoder, landmarks.batches(self._size, self._batch), mesh, self._pool)
        count = len(landmarks.queries)
        ranks = np.argsort(-(features[:count] @ features[count:].T), axis=1, kind="stable")
        metrics, details = {}, {}
        for level in ("easy", "medium", "hard"):
            scores = [
                landmark_scores(order, *wanted(query, level))
                for order, query in zip(ranks, landmarks.truth, strict=True)
            ]
            scored = [score for score in scores if score is not None]
            if not scored:
                raise InputError(f"{self.data['data']} has no query with {level} images; fetch it again.")
            average, *precisions = np.mean(scored, axis=0).tolist()
            metrics[f"revisited_map_{level}"] = average
            details[level] = dict(zip(("precision_1", "precision_5", "precision_10"), precisions, strict=True))
        return Result(metrics, details)


def _check_pool(pool: str) -> None:
    if pool not in POOLS:
        raise InputError(f"pool is {pool!r}; give one of {', '.join(POOLS)}.")


def encoded(
    encoder: Encoder, batches: Iterable[tuple[np.ndarray, np.ndarray]], mesh: jax.sharding.Mesh, pool: str
) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"]]:
    """Return features of unit length and labels of all images, on the host."""
    features, labels, size = [], [], 0
    with jax.set_mesh(mesh):
        for images, names in batches:
            size = size or -(-len(images) // batch_parts(mesh)) * batch_parts(mesh)
            whole = np.zeros((size, *images.shape[1:]), np.uint8)
            whole[: len(images)] = images
            found = pooled(encoder, to_mesh(mesh, whole[local_rows(mesh, size)], size), pool)
            features.append(np.asarray(_whole(found), np.float32)[: len(images)])
            labels.append(names)
    stacked = np.concatenate(features)
    return stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-12), np.concatenate(labels)


_whole = jax.jit(replicate)


def retrieve(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], mesh: jax.sharding.Mesh
) -> tuple[Float[np.ndarray, " q"], Int[np.ndarray, " q"]]:
    """Return, of each image with others of its class, the average precision, and the place of the first of them from 0.

    The others are ranked by cosine, equal ones in their order. Average precision is the mean, over the images of the
    class, of the share of the class among the images ranked up to it.

    Args:
        features: Of unit length.
        labels: Classes.
        mesh: Whose devices share the queries.

    Raises:
        InputError: No class has two images.
    """
    _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    queries = np.flatnonzero(counts[places] > 1)
    if not len(queries):
        raise InputError("No class has two images, so that there is nothing to retrieve; give another data set.")
    size = -(-min(_QUERIES, len(queries)) // batch_parts(mesh)) * batch_parts(mesh)
    rows, found = local_rows(mesh, size), []
    with jax.set_mesh(mesh):
        gallery, classes = _whole((features, places.astype(np.int32)))
        for start in range(0, len(queries), size):
            part = np.resize(queries[start : start + size], size).astype(np.int32)
            found.append(jax.device_get(_ranked(gallery, classes, to_mesh(mesh, part[rows], size))))
    precisions, firsts = (np.concatenate(arrays)[: len(queries)] for arrays in zip(*found, strict=True))
    return precisions.astype(np.float64), firsts


@jax.jit
def _ranked(gallery: Array, classes: Array, queries: Array) -> tuple[Array, Array]:
    cosines = jnp.matmul(gallery[queries], gallery.T, precision=jax.lax.Precision.HIGHEST)
    itself = queries[:, None] == jnp.arange(len(gallery))[None]
    order = jnp.argsort(jnp.where(itself, jnp.inf, -cosines), axis=1, stable=True)[:, :-1]  # itself is the last
    right = classes[order] == classes[queries][:, None]
    share = jnp.cumsum(right, axis=1) / jnp.arange(1.0, order.shape[1] + 1)[None]
    precision = jnp.sum(jnp.where(right, share, 0.0), axis=1) / jnp.sum(right, axis=1)
    return replicate((precision, jnp.argmax(right, axis=1)))


def wanted(query: dict[str, list[int]], level: str) -> tuple[list[int], list[int]]:
    """Return which images a query should find at a level of the protocol, and which count for nothing."""
    easy, hard, junk = (list(query[name]) for name in ("easy", "hard", "junk"))
    return {"easy": (easy, junk + hard), "medium": (easy + hard, junk), "hard": (hard, junk + easy)}[level]


def landmark_scores(
    order: Int[np.ndarray, " n"], positive: Sequence[int], junk: Sequence[int]
) -> tuple[float, float, float, float] | None:
    """Return average precision and the precisions at 1, 5 and 10 of a ranking, None where nothing should be found.

    As the benchmark defines them: junk is taken out of the ranking; average precision is the area under the curve of
    precision over recall by trapezia; precision at k looks no further than the last image that should be found.
    """
    if not positive:
        return None
    kept = order[~np.isin(order, np.asarray(junk, int))]
    ranks = np.flatnonzero(np.isin(kept, np.asarray(positive, int)))  # of what should be found, from 0
    earlier = np.arange(len(ranks))
    before = np.where(ranks > 0, earlier / np.maximum(ranks, 1), 1.0)
    average = float(np.sum(before + (earlier + 1) / (ranks + 1)) / (2 * len(positive)))
    reach = [min(k, int(ranks[-1]) + 1) for k in RECALLS]
    first, fifth, tenth = (float(np.sum(ranks < k)) / k for k in reach)
    return average, first, fifth, tenth
