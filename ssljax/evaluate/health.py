"""What an encoder's features look like without labels: their rank, spectrum, alignment, uniformity, and its attention.

Garrido, Balestriero, Najman, LeCun: RankMe: assessing the downstream performance of pretrained self-supervised
representations by their rank, ICML 2023 (arXiv 2210.02885). Wang, Isola: Understanding contrastive representation
learning through alignment and uniformity on the hypersphere, ICML 2020 (arXiv 2005.10242).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt

from ssljax.data.images import Ordered
from ssljax.errors import InputError
from ssljax.evaluate.encoders import check_pool, vectors
from ssljax.evaluate.labelled import described
from ssljax.evaluate.numbers import check_seed
from ssljax.evaluate.result import Result
from ssljax.mesh import batch_parts, local_rows, replicate, to_mesh
from ssljax.models.pure import Params
from ssljax.models.vit import ViT
from ssljax.objectives.base import Encoder
from ssljax.ops import keys as rng
from ssljax.ops.augment import crop_view, normalise

CROP = (0.08, 1.0)
"""The part of an image that a view shows, smallest and largest; that of Wang and Isola."""
DIMENSIONS = (1, 10, 100)
"""In so many directions the share of the variance is told."""

_EPSILON = 1e-7  # of RankMe
_LEAST_VARIANCE = 1e-12  # to the mean square of the features: less is rounding, and no variance
_ROWS = 256  # of the matrix of distances at once, about


class Measured(NamedTuple):
    """What was measured of n images.

    Attributes:
        features: Of the images.
        distances: Squared, between the normalised features of two views of each image.
        entropies: Of the CLS token's attention in each head, in nats; no heads where there is no such attention.
        patches: How many patches it attends to.
    """

    features: Float[np.ndarray, "n d"]
    distances: Float[np.ndarray, " n"]
    entropies: Float[np.ndarray, "n h"]
    patches: int


class Health:
    """Label-free measures of the features of images, of which none is a share.

    "health_rankme", see `rankme`, 1 where features are collapsed to a line, at most their dimension;
    "health_alignment", the mean squared distance of the normalised features of two views of an image (random crop of 8
    to 100 % of its area, mirrored at random), 0 where views are told apart by nothing; "health_uniformity", see
    `uniformity`, 0 where features are collapsed to a point, at least -4 for many of them. For ViTs also
    "health_attention_entropy", in nats, that of the CLS token's attention to patches in the last block, the mean over
    heads, and "health_attention_entropy_min", the least of a head.

    Args:
        data: A prepared set of at least two images; labels are not needed.
        size: Side of the images in pixels.
        batch_size: Images encoded at once.
        pool: What stands for an image, see `pooled`.
        seed: Of the views.

    Raises:
        InputError: The data cannot be used, or `pool` is unknown.
    """

    def __init__(self, *, data: str, size: int, batch_size: int = 256, pool: str = "features", seed: int = 0) -> None:
        if not data:
            raise InputError("Health needs images; give a prepared folder as data.")
        check_pool(pool)
        check_seed(seed)
        self._images = Ordered(data, size=size, batch_size=batch_size)
        if len(self._images) < 2:
            raise InputError(f"{data} has {len(self._images)} image, and features are compared; give at least 2.")
        self._pool, self._seed = pool, seed
        self.data = described(test=self._images)

    def __call__(self, encoder: Encoder, mesh: jax.sharding.Mesh) -> Result:
        """Return the measures, and as details the spectra and each head's entropy.

        Raises:
            InputError: Features are not finite.
        """
        found = measured(encoder, self._images, mesh, pool=self._pool, seed=self._seed)
        if not np.all(np.isfinite(found.features)):
            raise InputError("The encoder's features are not finite; take an earlier checkpoint.")
        values, variances = singular_values(found.features), variance_shares(found.features)
        metrics = {
            "health_rankme": rankme(values),
            "health_alignment": float(np.mean(found.distances, dtype=np.float64)),
            "health_uniformity": uniformity(found.features, mesh),
        }
        details: dict[str, Any] = {
            "singular_values": (values / max(values.sum(), 1e-300)).tolist(),
            "variance_shares": variances.tolist(),
            "variance_in_dimensions": {str(k): float(variances[:k].sum()) for k in DIMENSIONS if k <= len(variances)},
        }
        if found.entropies.shape[1]:
            heads = np.mean(found.entropies, axis=0, dtype=np.float64)
            metrics["health_attention_entropy"] = float(heads.mean())
            metrics["health_attention_entropy_min"] = float(heads.min())
            details["attention_entropy"] = {"heads": heads.tolist(), "at_most": float(np.log(found.patches))}
        return Result(metrics, details, shares=False)


def rankme(singular_values: Float[np.ndarray, " k"]) -> float:
    """Return exp(-sum_k p_k log p_k) with p_k = s_k / sum of s + 1e-7: Garrido et al. 2023, equations 1 and 2."""
    shares = singular_values / max(float(singular_values.sum()), 1e-300) + _EPSILON
    return float(np.exp(-np.sum(shares * np.log(shares))))


def singular_values(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " k"]:
    """Return the min(n, d) singular values of features, largest first, to a millionth of the largest.

    They are the roots of the eigenvalues of the Gram matrix, in float64, whose noise is then less than RankMe's 1e-7.
    """
    return np.sqrt(_eigenvalues(features.astype(np.float64)))[: min(features.shape)]


def variance_shares(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " k"]:
    """Return the eigenvalues of the features' covariance over their sum, largest first; zeros if nothing varies."""
    wide = features.astype(np.float64)
    eigenvalues = _eigenvalues(wide - wide.mean(axis=0))[: min(features.shape)]
    total = float(eigenvalues.sum())
    return eigenvalues / total if total > _LEAST_VARIANCE * np.sum(np.square(wide)) else np.zeros_like(eigenvalues)


def _eigenvalues(features: np.ndarray) -> np.ndarray:
    return np.maximum(np.linalg.eigvalsh(features.T @ features)[::-1], 0.0)


def uniformity(features: Float[np.ndarray, "n d"], mesh: jax.sharding.Mesh) -> float:
    """Return log of the mean over pairs i != j of exp(-2 |f_i - f_j|^2), f being features of unit length.

    Wang and Isola 2020, equation 7 with t = 2. The devices share the rows of the matrix of distances.
    """
    count = len(features)
    size = -(-min(_ROWS, count) // batch_parts(mesh)) * batch_parts(mesh)
    rows, sums = local_rows(mesh, size), []
    with jax.set_mesh(mesh):
        unit = _prepared(features)
        for start in range(0, count, size):
            part = np.resize(np.arange(start, min(start + size, count), dtype=np.int32), size)
            sums.append(jax.device_get(_potentials(unit, to_mesh(mesh, part[rows], size))))
    total = np.sum(np.concatenate([part[: count - i * size] for i, part in enumerate(sums)]), dtype=np.float64)
    return float(np.log(total / (count * (count - 1))))


@jax.jit
def _prepared(features: Array) -> Array:
    return replicate(_unit(features))


@jax.jit
def _potentials(unit: Float[Array, "n d"], rows: Int[Array, " b"]) -> Float[Array, " b"]:
    """Return of each of some rows the sum over the others of exp(-2 |f_i - f_j|^2)."""
    squares = jnp.sum(jnp.square(unit), axis=-1)
    products = jnp.matmul(unit[rows], unit.T, precision=jax.lax.Precision.HIGHEST)
    distances = jnp.maximum(squares[rows][:, None] + squares[None] - 2 * products, 0.0)
    itself = rows[:, None] == jnp.arange(len(unit))[None]
    return replicate(jnp.sum(jnp.where(itself, 0.0, jnp.exp(-2 * distances)), axis=1))


def attention_entropy(attention: Float[Array, "b h n"]) -> Float[Array, "b h"]:
    """Return the entropies of attention over patches in nats, each made to sum to one: from 0 to log n."""
    attention = attention.astype(jnp.float32)
    shares = attention / jnp.maximum(jnp.sum(attention, axis=-1, keepdims=True), 1e-30)
    return jnp.sum(jax.scipy.special.entr(shares), axis=-1)


def measured(encoder: Encoder, images: Any, mesh: jax.sharding.Mesh, *, pool: str, seed: int) -> Measured:
    """Return what is asked of each of the images, each batch split over the mesh.

    Args:
        encoder: Whatever `pooled` takes.
        images: Batches uint8 [b, s, s, 3], b the same for all but a shorter last one.
        mesh: Whose devices hold a batch's images.
        pool: See `pooled`.
        seed: Of the views; they depend on it and on an image's place alone.
    """
    attends = isinstance(getattr(encoder.model, "abstract", None), ViT)
    parts: list[tuple[np.ndarray, ...]] = []
    size = start = patches = 0
    with jax.set_mesh(mesh):
        for batch in images:
            size = size or -(-len(batch) // batch_parts(mesh)) * batch_parts(mesh)
            whole = np.zeros((size, *batch.shape[1:]), np.uint8)
            whole[: len(batch)] = batch
            places, rows = np.arange(start, start + size, dtype=np.uint32), local_rows(mesh, size)
            given = to_mesh(mesh, (whole[rows], places[rows]), size)
            *found, patches = _measure(encoder.model, encoder.params, *given, pool=pool, seed=seed, attends=attends)
            parts.append(tuple(np.asarray(x)[: len(batch)] for x in found))
            start += len(batch)
    features, distances, entropies = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Measured(features, distances, entropies, int(patches))


@functools.partial(jax.jit, static_argnames=("model", "pool", "seed", "attends"))
def _measure(
    model: Any,
    params: Params,
    images: Array,
    places: UInt[Array, " b"],
    *,
    pool: str,
    seed: int,
    attends: bool,
) -> Any:
    """Return features, squared distances between views, entropies and the number of patches, whole on every device."""
    output = model(params, normalise(images.astype(jnp.float32) / 255.0), **({"probe": -1} if attends else {}))
    attention = output.probe.cls_attention if attends else jnp.zeros((len(images), 0, 1))

    def view(name: str) -> Array:
        crop = functools.partial(crop_view, size=images.shape[1], scale=CROP)
        key = rng.named(jax.random.key(seed), f"health.{name}")
        crops = jax.vmap(crop)(images, rng.per_sample(key, places))
        return _unit(vectors(model(params, crops), pool))

    distances = jnp.sum(jnp.square(view("first") - view("second")), axis=-1)
    return replicate((vectors(output, pool), distances, attention_entropy(attention), attention.shape[-1]))


def _unit(features: Float[Array, "b d"]) -> Float[Array, "b d"]:
    return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
