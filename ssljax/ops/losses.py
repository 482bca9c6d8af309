"""Losses on embeddings and logits, and the quantities that tell whether they are still worth minimising."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

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
    pair = jax.vmap(
        lambda target: jax.vmap(
            lambda logits: jnp.mean(soft_cross_entropy(logits, target, temperature=student_temperature))
        )(student_logits)
    )(targets)
    other = 1.0 - jnp.eye(pair.shape[0], pair.shape[1])
    return jnp.sum(pair * other) / jnp.sum(other)


def update_center(center: Float[Array, " c"], batch: Float[Array, " c"], *, momentum: float) -> Float[Array, " c"]:
    """Return momentum * center + (1 - momentum) * batch, batch being the mean teacher logits (DINO, equation 4)."""
    return momentum * center + (1.0 - momentum) * batch


def info_nce(queries: Float[Array, "n d"], keys: Float[Array, "n d"], *, temperature: float) -> Float[Array, ""]:
    """Return MoCo v3's contrastive loss of one direction: 2 tau times the cross-entropy of query i finding key i.

    Chen et al. 2021, algorithm 1. Both inputs are L2-normalised here; no gradient reaches the keys.
    """
    queries = _unit(queries)
    keys = jax.lax.stop_gradient(_unit(keys))
    logits = queries @ keys.T / temperature
    return 2.0 * temperature * jnp.mean(jax.nn.logsumexp(logits, axis=-1) - jnp.diagonal(logits))


def nt_xent(z1: Float[Array, "n d"], z2: Float[Array, "n d"], *, temperature: float) -> Float[Array, ""]:
    """Return SimCLR's loss: each of the 2n views finds the other view of its sample among the 2n - 1 others.

    Chen et al. 2020, equation 1 averaged over all 2n anchors. Inputs are L2-normalised here.
    """
    z = _unit(jnp.concatenate([z1, z2]))
    n = z1.shape[0]
    logits = jnp.where(jnp.eye(2 * n, dtype=bool), -jnp.inf, z @ z.T / temperature)
    positives = jnp.sum(z * jnp.roll(z, n, axis=0), axis=-1) / temperature
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - positives)


def _unit(x: Array) -> Array:
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))
