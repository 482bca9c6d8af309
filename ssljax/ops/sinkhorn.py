"""Sinkhorn-Knopp: the soft assignment of samples to prototypes with equal mass for each prototype."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from ssljax.ops.arrays import Array


def sinkhorn_knopp(
    scores: Float[Array, "*b n k"],
    *,
    epsilon: float | Float[Array, ""],
    iterations: int,
    counted: Bool[Array, "*b n"] | None = None,
) -> Float[Array, "*b n k"]:
    """Return the entropy-regularised optimal assignment of n samples to k prototypes.

    Each row sums to one, each column to about n / k (exactly so in the limit of many iterations; the rows are
    normalised last). Cuturi, "Sinkhorn Distances", 2013; used so by SwAV (appendix C) and DoRA (equation 4).

    Iterates in logarithms: exp(scores / epsilon) with one shift for the whole matrix overflows or underflows in
    float32 at the epsilons in use.

    Args:
        scores: Similarities; larger means closer.
        epsilon: Entropy regularisation, the temperature of the assignment.
        iterations: Number of (column, row) normalisations; 0 gives the row-wise softmax of the normalised start.
        counted: Rows that are samples, all by default: the assignment of these is what it is without the others, whose
            own is of no use.
    """
    samples, prototypes = scores.shape[-2:]
    logs = jnp.asarray(scores, jnp.float32) / epsilon
    where = None if counted is None else counted[..., None]

    def normalise(_: Array, logs: Array) -> Array:
        logs = logs - jax.nn.logsumexp(logs, axis=-2, keepdims=True, where=where) - math.log(prototypes)
        return logs - jax.nn.logsumexp(logs, axis=-1, keepdims=True) - math.log(samples)

    logs = jax.lax.fori_loop(0, iterations, normalise, logs)
    return jnp.exp(logs - jax.nn.logsumexp(logs, axis=-1, keepdims=True))
