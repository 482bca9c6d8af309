"""Blocks of one kind, their parameters stacked, run by one scan."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ssljax.mesh import GATHERED, gather, is_gathering, shard_batch
from ssljax.models.attention import padded_length
from ssljax.models.blocks import Block


def _keep(f: Callable) -> Callable:
    """Keep all that the backward pass uses, but for weights gathered from other devices: they are gathered again."""
    if not is_gathering():
        return f
    policy = jax.checkpoint_policies.save_anything_except_these_names(GATHERED)
    return jax.checkpoint(f, prevent_cse=False, policy=policy)


REMAT: dict[str, Callable[[Callable], Callable]] = {
    "none": _keep,
    "full": functools.partial(jax.checkpoint, prevent_cse=False),
    "dots": functools.partial(
        jax.checkpoint, prevent_cse=False, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    ),
}
"""What the backward pass recomputes: nothing; all in a block; all but the outputs of linear layers."""


def stacked_blocks(depth: int, *, rngs: nnx.Rngs, **arguments: Any) -> Block:
    """Return a `Block` whose every parameter has a leading axis of `depth` layers, each started by itself."""
    return nnx.vmap(lambda key: Block(**arguments, rngs=nnx.Rngs(key)))(jax.random.split(rngs.params(), depth))


def run_blocks(
    blocks: Block,
    tokens: Float[Array, "b n d"],
    *,
    depth: int,
    attention: str,
    remat: str,
    wanted: Sequence[int] = (),
    drop: Float[Array, "depth b 2"] | None = None,
    rows: int | None = None,
) -> tuple[list[Array], Float[Array, "b m d"]]:
    """Return the inputs of the wanted blocks (number `depth` is the output of the last) and the last output.

    Args:
        blocks: As `stacked_blocks` returns them.
        tokens: The first block's input.
        depth: Number of blocks.
        attention: "xla", "cudnn" or "pallas", as `implementation_of` says.
        remat: A key of `REMAT`.
        wanted: Numbers of blocks.
        drop: See `drop_path_factors`; None is without.
        rows: How many of the first tokens leave the last block, which computes no others; all by default. Goes without
            wanted blocks.
    """
    count = tokens.shape[1]
    padding = padded_length(count, attention) - count
    tokens = jnp.pad(tokens, ((0, 0), (0, padding), (0, 0)))
    graphdef, stack = nnx.split(blocks)

    def block(rows: int | None) -> Callable[[Array, Any, Array | None], Array]:
        def call(tokens: Array, layer: Any, drop: Array | None) -> Array:
            layer = gather(layer)  # where weights are sharded, one layer's are gathered at a time
            return nnx.merge(graphdef, layer)(tokens, drop, length=count if padding else None, rows=rows)

        return REMAT[remat](call)

    def body(carry: tuple, layer: tuple) -> tuple[tuple, None]:
        tokens, inputs = shard_batch(carry)
        index, weights, drop = layer
        inputs = [jnp.where(index == i, tokens, kept) for i, kept in zip(wanted, inputs, strict=True)]
        return (block(None)(tokens, weights, drop), inputs), None

    start = (tokens, [jnp.zeros_like(tokens) for _ in wanted])
    layers = (jnp.arange(depth), stack, drop)
    if rows is not None:
        (tokens, _), _ = jax.lax.scan(body, start, jax.tree.map(lambda leaf: leaf[:-1], layers))
        _, last, drop = jax.tree.map(lambda leaf: leaf[-1], layers)
        return [], block(rows)(shard_batch(tokens), last, drop)
    (tokens, inputs), _ = jax.lax.scan(body, start, layers)
    inputs = [tokens if i == depth else kept for i, kept in zip(wanted, inputs, strict=True)]
    return [kept[:, :count] for kept in inputs], tokens[:, :count]
