"""Losses on embeddings and logits, and the quantities that tell whether they are still worth minimising."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssljax.errors import InputError
from ssljax.mesh import replicate, shard_batch
from ssljax.ops.arrays import Array

Scalar = Float[Array, ""] | float


def teacher_probabilities(
    logits: Float[Array, "*b c"], center: Float[Array, " c"], *, temperature: Scalar
) -> Float[Array, "*b c"]:
    """Return softmax((logits - center) / temperature) in float32: DINO's centred and sharpened teacher, no gradient.

    Caron et al. 2021, section 3.1: the centre keeps one prototype from winning always, the temperature keeps all from
    winning equally.
    """
    centred = logits.astype(jnp.float32) - center.reshape((1,) * (logits.ndim - 1) + center.shape)
    return jax.lax.stop_gradient(jax.nn.softmax(centred / temperature, axis=-1))


def soft_cross_entropy(
    logits: Float[Array, "*#b c"], targets: Float[Array, "*#b c"], *, temperature: Scalar
) -> Float[Array, "*b"]:
    """Return -sum_c targets log softmax(logits / temperature), targets summing to one; in float32."""
    scaled = logits.astype(jnp.float32) / temperature
    return jax.nn.logsumexp(scaled, axis=-1) - jnp.sum(targets * scaled, axis=-1)


def entropy(probabilities: Float[Array, "*b c"]) -> Float[Array, "*b"]:
    """Return the entropy in nats of distributions over the last axis."""
    return jnp.sum(jax.scipy.special.entr(probabilities), axis=-1)


def dino_cross_entropy(
    student_logits: Float[Array, "v b c"],
    teacher_logits: Float[Array, "g b c"],
    center: Float[Array, " c"],
    *,
    student_temperature: Scalar,
    teacher_temperature: Scalar,
) -> Float[Array, ""]:
    """Return DINO's loss: the mean cross-entropy of each teacher view against each other student view.

        loss = mean over b and over pairs (i, v), i != v, of H(softmax((t_i - center) / tau_t), softmax(s_v / tau_s))

    Caron et al. 2021, equation 3. The first g student views are the teacher's own views. Gradients reach the student
    only.

    Args:
        student_logits: Of all v views, global ones first.
        teacher_logits: Of the g global views.
        center: Running mean of the teacher's logits.
        student_temperature: tau_s.
        teacher_temperature: tau_t.
    """
    targets = teacher_probabilities(teacher_logits, center, temperature=teacher_temperature)
    return cross_view_entropy(student_logits, targets, temperature=student_temperature)


def cross_view_entropy(
    student_logits: Float[Array, "v b c"], targets: Float[Array, "g b c"], *, temperature: Scalar
) -> Float[Array, ""]:
    """Return the mean cross-entropy of each target view against each other student view, as `dino_cross_entropy` does.

    Args:
        student_logits: Of all v views, those of the targets first.
        targets: Distributions, however the teacher's logits were centred.
        temperature: The student's.
    """
    pair = jax.vmap(
        lambda target: jax.vmap(lambda logits: jnp.mean(soft_cross_entropy(logits, target, temperature=temperature)))(
            student_logits
        )
    )(targets)
    other = 1.0 - jnp.eye(pair.shape[0], pair.shape[1])
    return jnp.sum(pair * other) / jnp.sum(other)


def update_center(center: Float[Array, " c"], batch: Float[Array, " c"], *, momentum: float) -> Float[Array, " c"]:
    """Return momentum * center + (1 - momentum) * batch, batch being the mean teacher logits (DINO, equation 4)."""
    return momentum * center + (1.0 - momentum) * batch


def koleo(x: Float[Array, "n d"]) -> Float[Array, ""]:
    """Return the Kozachenko-Leonenko estimator's regulariser, which spreads features evenly over the sphere.

        loss = -1/n sum_i log min_{j != i} |x_i - x_j|

    Sablayrolles et al. 2019 (arXiv 1806.03198), as DINOv2 applies it (section 4). Rows are L2-normalised here. The
    distance of rows that are equal counts as 1e-8 and has no gradient.

    Raises:
        InputError: Fewer than two samples.
    """
    if len(x) < 2:
        raise InputError(f"KoLeo of {len(x)} sample(s) has no neighbour to be far from; give a batch of 2 or more.")
    x = unit(x)
    everyone = replicate(x)
    # The highest precision: which neighbour is nearest must not depend on the device.
    products = jnp.matmul(x, everyone.T, precision=jax.lax.Precision.HIGHEST)
    others = ~jnp.eye(len(x), dtype=bool)
    nearest = jnp.argmax(jnp.where(others, jax.lax.stop_gradient(products), -jnp.inf), axis=-1)
    squared = jnp.sum(jnp.square(x - everyone[nearest]), axis=-1)
    return -0.5 * jnp.mean(jnp.log(jnp.maximum(squared, 1e-16)))


def info_nce(
    queries: Float[Array, "n d"], keys: Float[Array, "n d"], *, temperature: float, block_size: int | None = None
) -> Float[Array, ""]:
    """Return MoCo v3's contrastive loss of one direction: 2 tau times the cross-entropy of query i finding key i.

    Chen et al. 2021, algorithm 1. Both inputs are L2-normalised here; no gradient reaches the keys.

    Args:
        queries: Row i is of the same sample as row i of the keys.
        keys: Of the momentum encoder.
        temperature: tau.
        block_size: Keys that are compared at a time; all by default. Memory grows with n times this.

    Raises:
        InputError: Fewer than two samples, or a temperature or block size that is not positive.
    """
    _check(queries.shape[0], temperature, block_size)
    queries = unit(queries)
    keys = jax.lax.stop_gradient(unit(keys))
    positives = jnp.sum(queries * keys, axis=-1) / temperature
    every = _logsumexp_of_products(queries / temperature, keys, False, block_size)
    return 2.0 * temperature * jnp.mean(every - positives)


def nt_xent(
    z1: Float[Array, "n d"], z2: Float[Array, "n d"], *, temperature: float, block_size: int | None = None
) -> Float[Array, ""]:
    """Return SimCLR's loss: each of the 2n views finds the other view of its sample among the 2n - 1 others.

    Chen et al. 2020, equation 1 averaged over all 2n anchors. Inputs are L2-normalised here.

    Args:
        z1: One view of each sample.
        z2: The other.
        temperature: tau.
        block_size: Views that all views are compared with at a time; all by default. Memory grows with n times this.

    Raises:
        InputError: Fewer than two samples, or a temperature or block size that is not positive.
    """
    _check(z1.shape[0], temperature, block_size)
    z1, z2 = unit(z1), unit(z2)
    z = jnp.stack([z1, z2], axis=1).reshape(-1, z1.shape[-1])  # a sample's views side by side, on its own device
    others = _logsumexp_of_products(z / temperature, z, True, block_size)
    return jnp.mean(others) - jnp.mean(jnp.sum(z1 * z2, axis=-1)) / temperature


def retrieval_accuracy(
    queries: Float[Array, "n d"], keys: Float[Array, "n d"], *, block_size: int | None = None
) -> Float[Array, ""]:
    """Return the share of queries that are nearer, by cosine, to their own key than to any other; no gradient.

    Args:
        queries: Row i is of the same sample as row i of the keys.
        keys: As many.
        block_size: Keys that are compared at a time; all by default.
    """
    queries, keys = jax.lax.stop_gradient((unit(queries), unit(keys)))

    def nearest(best: Array, products: Array, keys: Array) -> tuple[Array, None]:
        return jnp.maximum(best, jnp.max(products, axis=-1)), None

    best, _ = _over_blocks(nearest, jnp.full(len(queries), -jnp.inf), queries, keys, True, block_size)
    return jnp.mean(jnp.sum(queries * keys, axis=-1) > best)


def unit(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Return x over its length, in float32; zero stays zero."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _logsumexp_of_products(queries: Array, keys: Array, others_only: bool, block_size: int | None) -> Array:
    """Return log sum_j exp(q_i . k_j) [n], over j other than i where `others_only`.

    The products of all pairs never exist at once, in the gradient neither: it is made from this function's result and
    products that are computed again.
    """

    def add(total: Array, products: Array, keys: Array) -> tuple[Array, None]:
        return jnp.logaddexp(total, jax.nn.logsumexp(products, axis=-1)), None

    return _over_blocks(add, jnp.full(len(queries), -jnp.inf), queries, keys, others_only, block_size)[0]


def _forward(queries: Array, keys: Array, others_only: bool, block_size: int | None) -> tuple[Array, tuple]:
    total = _logsumexp_of_products(queries, keys, others_only, block_size)
    return total, (queries, keys, total)


def _backward(others_only: bool, block_size: int | None, kept: tuple, cotangent: Array) -> tuple[Array, Array]:
    queries, keys, total = kept

    def add(gradient: Array, products: Array, keys: Array) -> tuple[Array, Array]:
        weights = jnp.exp(products - total[:, None]) * cotangent[:, None]
        return gradient + weights @ keys, weights.T @ queries

    of_queries, of_keys = _over_blocks(add, jnp.zeros_like(queries), queries, keys, others_only, block_size)
    return of_queries, of_keys.reshape(-1, keys.shape[-1])[: len(keys)]


_logsumexp_of_products.defvjp(_forward, _backward)


def _over_blocks(
    function: Callable[[Array, Array, Array], tuple[Array, Any]],
    start: Array,
    queries: Array,
    keys: Array,
    others_only: bool,
    block_size: int | None,
) -> tuple[Array, Any]:
    """Scan `function(carry, products of all queries with a block of keys, these keys)` over the blocks.

    Products that do not count (of a row with itself where `others_only`, of padding) are minus infinity.
    """
    size = min(block_size or len(keys), len(keys))
    count = -(-len(keys) // size)
    # A device keeps its own queries and sees all keys: what it holds is n / devices times a block.
    queries, start = shard_batch((queries, start))
    blocks = replicate(jnp.pad(keys, ((0, count * size - len(keys)), (0, 0)))).reshape(count, size, -1)
    rows = jnp.arange(len(queries))[:, None]

    def body(carry: Array, block: tuple[Array, Array]) -> tuple[Array, Any]:
        index, keys_of_block = block
        columns = index * size + jnp.arange(size)[None, :]
        counts = columns < len(keys)
        counts = counts & (columns != rows) if others_only else counts
        products = jnp.where(counts, queries @ keys_of_block.T, -jnp.inf)
        carry, out = function(carry, products, keys_of_block)
        return shard_batch(carry), out

    return jax.lax.scan(body, start, (jnp.arange(count), blocks))


def _check(samples: int, temperature: float, block_size: int | None) -> None:
    if samples < 2:
        raise InputError(
            f"A contrastive loss of {samples} sample(s) has nothing to tell apart; give a batch of 2 or more."
        )
    if temperature <= 0:
        raise InputError(f"temperature is {temperature}; give a number above 0.")
    if block_size is not None and block_size < 1:
        raise InputError(f"block_size is {block_size}; give at least 1.")
