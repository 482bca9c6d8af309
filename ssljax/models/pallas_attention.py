"""Softmax attention of TPUs as one kernel: neither logits nor heads of their own ever reach the memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from ssljax.errors import InputError
from ssljax.flops import RECOMPUTED
from ssljax.mesh import per_shard

_TOKENS = 512
"""About as many are in one step of a grid, whose start costs more than the attention of a few."""


def pallas_attention(qkv: Float[Array, "b n c"], *, heads: int, interpret: bool = False) -> Float[Array, "b n d"]:
    """Return the attention of tokens to each other, heads side by side; its sums and softmax are float32.

    All tokens of a sequence are in a core's memory (VMEM) at once, read as the linear layer before wrote them and
    written as the next one reads them; the gradient makes the attention anew from them. Each device of the mesh that
    is set takes its part of the batch.

    Args:
        qkv: Queries, keys and values, d = c / 3 channels of each, those of a head beside each other.
        heads: Number of heads.
        interpret: Run the kernel as JAX's own operations, on any device: for tests.

    Raises:
        InputError: If the computation is not for TPUs, or a sequence does not fit their VMEM.
    """
    if not interpret:
        _check(qkv.shape[1], qkv.shape[2], qkv.dtype.itemsize)
    return _attention(qkv, heads, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _attention(qkv: Array, heads: int, interpret: bool) -> Array:
    return _call(_forward, (qkv,), qkv.shape[-1] // 3, heads, interpret)


def _attention_forward(qkv: Array, heads: int, interpret: bool) -> tuple[Array, Array]:
    return _attention(qkv, heads, interpret), qkv


def _attention_backward(heads: int, interpret: bool, qkv: Array, g: Array) -> tuple[Array]:
    return (_call(_backward, (qkv, g), qkv.shape[-1], heads, interpret),)


_attention.defvjp(_attention_forward, _attention_backward)


def _call(kernel: Callable, arrays: tuple[Array, ...], channels: int, heads: int, interpret: bool) -> Array:
    """Return what the kernel makes of [b, n, ...], some sequences at a time: [b, n, channels]."""

    def local(*arrays: Array) -> Array:
        b, n, c = arrays[0].shape
        sequences = max(i for i in range(1, b + 1) if b % i == 0 and (i == 1 or i * n <= _TOKENS))
        result = jax.ShapeDtypeStruct((b, n, channels), arrays[0].dtype)
        lasts = (*(x.shape[-1] for x in arrays), channels)
        specs = [pl.BlockSpec((sequences, n, last), lambda i: (i, 0, 0)) for last in lasts]
        return pl.pallas_call(
            functools.partial(kernel, heads=heads),
            out_shape=result,
            grid=(b // sequences,),
            in_specs=specs[:-1],
            out_specs=specs[-1],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel",), vmem_limit_bytes=_bytes(n, c, result.dtype.itemsize)
            ),
            interpret=interpret,
        )(*arrays)

    return per_shard(local, *arrays)


def _forward(qkv: Any, out: Any, *, heads: int) -> None:
    """Write the attention [s, n, d] of qkv [s, n, 3 d]."""

    def sequence(i: Any, _: None) -> None:
        for queries, keys, values, (of, *_) in _heads(qkv, i, heads):
            logits = _product(queries, keys, (1, 1)) * queries.shape[-1] ** -0.5
            weights = _exponentials(logits, 1)
            sums = jnp.sum(weights, axis=1, keepdims=True)
            out[i, :, of] = (_product(weights.astype(values.dtype), values, (1, 0)) / sums).astype(out.dtype)

    jax.lax.fori_loop(0, qkv.shape[0], sequence, None)


def _backward(qkv: Any, g: Any, of_qkv: Any, *, heads: int) -> None:
    """Write the gradient [s, n, 3 d] for qkv from g [s, n, d].

    Keys are rows and queries columns here, so that of five products only one has a matrix to transpose.
    """

    def sequence(i: Any, _: None) -> None:
        for queries, keys, values, (of_queries, of_keys, of_values) in _heads(qkv, i, heads):
            scale, g_head = queries.shape[-1] ** -0.5, g[i, :, of_queries]
            with jax.named_scope(RECOMPUTED):
                attention = _exponentials(_product(keys, queries, (1, 1)) * scale, 0)
            attention = attention / jnp.sum(attention, axis=0, keepdims=True)
            of_attention = _product(values, g_head, (1, 1))
            along = jnp.sum(of_attention * attention, axis=0, keepdims=True)
            of_logits = (attention * (of_attention - along) * scale).astype(queries.dtype)
            of_qkv[i, :, of_queries] = _product(of_logits, keys, (0, 0)).astype(of_qkv.dtype)
            of_qkv[i, :, of_keys] = _product(of_logits, queries, (1, 0)).astype(of_qkv.dtype)
            of_qkv[i, :, of_values] = _product(attention.astype(g.dtype), g_head, (1, 0)).astype(of_qkv.dtype)

    jax.lax.fori_loop(0, qkv.shape[0], sequence, None)


def _heads(qkv: Any, i: Any, heads: int) -> Any:
    """Yield queries, keys and values [n, dh] of each head of sequence i, and the channels where they are."""
    size = qkv.shape[-1] // (3 * heads)
    for head in range(heads):
        channels = [pl.ds((part * heads + head) * size, size) for part in range(3)]
        yield *(qkv[i, :, each] for each in channels), channels


def _exponentials(logits: Array, axis: int) -> Array:
    """Return exp(logits - the largest along the axis of keys)."""
    return jnp.exp(logits - jnp.max(logits, axis=axis, keepdims=True))


def _product(a: Array, b: Array, axes: tuple[int, int]) -> Array:
    """Return the product of two matrices, summed over one axis of each, in float32."""
    dimensions = (((axes[0],), (axes[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def _bytes(n: int, c: int, itemsize: int) -> int:
    """Return the VMEM that the kernels are given: two blocks of all arrays, one on its way, and five of logits."""
    rows, padded = n * max(1, _TOKENS // n), -(-n // 128) * 128
    return 2 * rows * (2 * c + c // 3) * itemsize + 5 * 4 * padded**2 + 2 * 2**20


def _check(n: int, c: int, itemsize: int) -> None:
    """Raise an InputError if the devices are no TPUs, or their VMEM is too small."""
    if not pltpu.is_tpu_device():
        raise InputError("attention 'pallas' is for TPUs: use 'xla', or 'auto' for what these devices have.")
    needed, there = _bytes(n, c, itemsize), pltpu.get_tpu_info().vmem_capacity_bytes
    if needed > there:
        raise InputError(
            f"attention 'pallas' of {n} tokens needs {needed / 2**20:.0f} MiB of a TPU's VMEM, which has "
            f"{there / 2**20:.0f}: use 'xla'."
        )
