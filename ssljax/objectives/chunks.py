"""A loss that is a mean over parts, with the memory of one part: no activation is kept and none computed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ssljax.mesh import shard_batch
from ssljax.objectives.base import PyTree
from ssljax.ops.arrays import Array


def mean_over_chunks(
    function: Callable[[Any, PyTree], tuple[Array, PyTree]], params: PyTree, batch: PyTree, *, count: int
) -> tuple[Array, PyTree]:
    """Return the mean of `function` over `count` chunks of the batch's second axis, chunk after chunk.

    Where a gradient is taken, each chunk's is made right after its loss and added up, so that nothing of a chunk
    outlives it: the memory of one chunk as recomputing everything has it, without computing anything twice. It works
    because a mean's gradient is known up to one factor before the mean is. Exact, but for the order of sums.

    Args:
        function: `(params, chunk) -> (loss, metrics)`, a mean over the chunk; metrics have no gradient.
        params: What is differentiated.
        batch: A tree of [b, t, ...], the first axis sharded as a batch; constants.
        count: A divisor of t. With 1, it is a plain call.
    """
    if count == 1:
        return function(params, batch)
    chunks = jax.tree.map(lambda x: _split(x, count), batch)

    def total(function: Callable[..., Any], params: PyTree) -> Any:
        def add(sums: Any, chunk: PyTree) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, function(params, shard_batch(chunk))), None

        shapes = jax.eval_shape(function, params, jax.tree.map(lambda x: x[0], chunks))
        sums, _ = jax.lax.scan(add, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), chunks)
        return jax.tree.map(lambda x: x / count, sums)

    @jax.custom_vjp
    def mean(params: PyTree) -> tuple[Array, PyTree]:
        return total(function, params)

    def forward(params: PyTree) -> tuple[tuple[Array, PyTree], PyTree]:
        return total(jax.value_and_grad(function, has_aux=True), params)

    def backward(gradient: PyTree, cotangent: tuple[Array, PyTree]) -> tuple[PyTree]:
        return (jax.tree.map(lambda g: g * cotangent[0], gradient),)

    mean.defvjp(forward, backward)
    return mean(params)


def _split(x: Array, count: int) -> Array:
    """[b, t, ...] -> [count, b, t / count, ...]."""
    return jnp.moveaxis(x.reshape(x.shape[0], count, x.shape[1] // count, *x.shape[2:]), 1, 0)
