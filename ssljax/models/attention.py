"""Multi-head self-attention, fused where the backend has it."""

from __future__ import annotations

import functools
import re
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ssljax.errors import InputError
from ssljax.flops import RECOMPUTED
from ssljax.models.pallas_attention import pallas_attention
from ssljax.models.products import Linear, add_to_rows, matmul

IMPLEMENTATIONS = ("auto", "xla", "cudnn", "pallas")


class Probe(NamedTuple):
    """What one block's attention looked at, and with what.

    Attributes:
        cls_attention: [b, h, n], the attention of CLS over the patches; softmax over all tokens, patch columns only.
        queries: [b, h, n, dh], of the patches.
        keys: [b, h, n, dh], of the patches.
    """

    cls_attention: Float[Array, "b h n"]
    queries: Float[Array, "b h n dh"]
    keys: Float[Array, "b h n dh"]


class Attention(nnx.Module):
    """Softmax attention of every token to every token (Vaswani et al. 2017), softmax in float32.

    Args:
        width: Of the tokens.
        heads: Number of heads, a divisor of the width.
        dtype: Of the computation; parameters are float32.
        implementation: "xla", "cudnn" for the fused kernel of NVIDIA GPUs, "pallas" for ours of TPUs, or "auto"; see
            `implementation_of`. On TPUs "auto" is "xla" until somebody has measured "pallas" on one.
        rngs: For the initial weights.

    Raises:
        InputError: If the heads don't divide the width, or "cudnn" cannot take these shapes or this dtype.
    """

    def __init__(self, *, width: int, heads: int, dtype: str, implementation: str, rngs: nnx.Rngs) -> None:
        if heads < 1 or width % heads:
            raise InputError(f"width {width} is not divisible by heads {heads}")
        size = width // heads
        implementation = implementation_of(implementation, dtype, size)
        if implementation == "cudnn" and (dtype == "float32" or size % 8 or size > 128):
            raise InputError(
                f"attention 'cudnn' needs dtype 'bfloat16' and a head size that is a multiple of 8 up to 128, "
                f"not {dtype!r} and {size}; use 'xla'"
            )
        self.heads = heads
        self.implementation: Any = implementation
        self.qkv = linear(width, 3 * width, dtype, rngs)
        self.out = linear(width, width, dtype, rngs)

    @jax.named_scope("attention")
    def __call__(
        self, x: Float[Array, "b n d"], *, length: int | None = None, rows: int | None = None
    ) -> Float[Array, "b m d"]:
        """Return the attended tokens, or the first `rows` of them alone.

        Tokens from number `length` on are padding, which no token attends to.
        """
        if rows is None and self.implementation == "pallas":
            out = pallas_attention(self.qkv(x), heads=self.heads)
        elif rows is None:
            queries, keys, values = self._split(x)
            out = attend(queries, keys, values, implementation=self.implementation, length=length)
        else:
            queries, keys, values = self._split_first(x, rows)
            out = attend(queries, keys, values, implementation="xla", length=length)  # a product of few rows
        return self.out(out.reshape(*out.shape[:2], -1))

    @jax.named_scope("probe")
    def probe(self, x: Float[Array, "b n d"], *, prefix: int) -> Probe:
        """Return the `Probe` of the input of `__call__`: CLS first, patches from token number `prefix` on."""
        queries, keys, _ = self._split(x)
        logits = jnp.einsum("bhd,bnhd->bhn", queries[:, 0], keys, preferred_element_type=jnp.float32)
        attention = jax.nn.softmax(logits * queries.shape[-1] ** -0.5, axis=-1)
        queries, keys = (jnp.swapaxes(y[:, prefix:], 1, 2) for y in (queries, keys))
        return Probe(attention[:, :, prefix:], queries, keys)

    def _split(self, x: Array) -> tuple[Array, Array, Array]:
        """Return queries, keys and values [b, n, h, dh]."""
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, -1)
        return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]

    def _split_first(self, x: Array, rows: int) -> tuple[Array, Array, Array]:
        """Return the queries of the first rows [b, rows, h, dh], and all keys and values [b, n, h, dh]."""
        assert self.qkv.bias is not None
        kernel, bias, width = self.qkv.kernel[...], self.qkv.bias[...], x.shape[-1]
        queries = add_to_rows(matmul(x[:, :rows], kernel[:, :width]), bias[:width])
        both = add_to_rows(matmul(x, kernel[:, width:]), bias[width:]).reshape(*x.shape[:2], 2, self.heads, -1)
        return queries.reshape(len(x), rows, self.heads, -1), both[:, :, 0], both[:, :, 1]


def attend(
    queries: Float[Array, "b m h dh"],
    keys: Float[Array, "b n h dh"],
    values: Float[Array, "b n h dh"],
    *,
    implementation: Literal["xla", "cudnn"],
    length: int | None = None,
) -> Float[Array, "b m h dh"]:
    """Return softmax(Q K^T / sqrt(dh)) V, keys and values from number `length` on left out.

    Raises:
        InputError: "cudnn" is asked for where there is none.
    """
    if implementation == "xla":
        # Heads lead, so that each head's products are of contiguous matrices.
        leading = (jnp.swapaxes(x, 1, 2) for x in (queries, keys, values))
        return jnp.swapaxes(_softmax_attention(*leading, length), 1, 2)
    lengths = None if length is None else jnp.full((queries.shape[0],), length, jnp.int32)
    try:
        return jax.nn.dot_product_attention(
            queries, keys, values, key_value_seq_lengths=lengths, implementation=implementation
        )
    except RuntimeError as error:
        raise InputError(f"attention 'cudnn' cannot be had here ({error}): use 'xla' or 'auto'.") from error


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _softmax_attention(queries: Array, keys: Array, values: Array, length: int | None) -> Array:
    """The softmax in float32 of [b, h, m, dh] and twice [b, h, n, dh].

    Its gradient makes the attention [b, h, m, n] anew, which is cheaper than to keep it: on a CPU it takes a third of
    the time of what JAX derives, and nothing of that size is kept.
    """
    weights, sums = _weights(queries, keys, length)
    return (_product("bhmn,bhnd->bhmd", weights.astype(values.dtype), values) / sums).astype(values.dtype)


def _softmax_attention_forward(
    queries: Array, keys: Array, values: Array, length: int | None
) -> tuple[Array, tuple[Array, Array, Array]]:
    return _softmax_attention(queries, keys, values, length), (queries, keys, values)


def _softmax_attention_backward(
    length: int | None, saved: tuple[Array, Array, Array], g: Array
) -> tuple[Array, Array, Array]:
    queries, keys, values = saved
    with jax.named_scope(RECOMPUTED):
        weights, sums = _weights(queries, keys, length)
    attention = weights / sums
    of_attention = _product("bhmd,bhnd->bhmn", g, values)
    along = jnp.sum(of_attention * attention, axis=-1, keepdims=True)
    of_logits = (attention * (of_attention - along) * queries.shape[-1] ** -0.5).astype(queries.dtype)
    of_queries = _product("bhmn,bhnd->bhmd", of_logits, keys)
    of_keys = _product("bhmn,bhmd->bhnd", of_logits, queries)
    of_values = _product("bhmn,bhmd->bhnd", attention.astype(g.dtype), g)
    return of_queries.astype(queries.dtype), of_keys.astype(keys.dtype), of_values.astype(values.dtype)


_softmax_attention.defvjp(_softmax_attention_forward, _softmax_attention_backward)


def _weights(queries: Array, keys: Array, length: int | None) -> tuple[Array, Array]:
    """Return exp(logits - the row's largest) [b, h, m, n] and their sums [b, h, m, 1]."""
    logits = _product("bhmd,bhnd->bhmn", queries, keys) * queries.shape[-1] ** -0.5
    if length is not None:
        logits = jnp.where(jnp.arange(logits.shape[-1])[None, None, None] < length, logits, -jnp.inf)
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    return weights, jnp.sum(weights, axis=-1, keepdims=True)


def _product(equation: str, a: Array, b: Array) -> Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def implementation_of(name: str, dtype: str, head_size: int) -> str:
    """Return "xla", "cudnn" or "pallas": for "auto", cuDNN's where this process's devices and the arguments allow it.

    Raises:
        InputError: If the name is unknown.
    """
    if name not in IMPLEMENTATIONS:
        raise InputError(f"attention {name!r} is unknown: use one of {', '.join(IMPLEMENTATIONS)}")
    if name != "auto":
        return name
    device = jax.local_devices()[0]
    fits = dtype == "bfloat16" and head_size % 8 == 0 and head_size <= 128
    # Flash attention wants Ampere or newer; ROCm has no cuDNN and no such number.
    recent = device.platform == "gpu" and re.fullmatch(r"\d+\.\d+", str(getattr(device, "compute_capability", "")))
    return "cudnn" if fits and recent and float(recent.group()) >= 8.0 else "xla"


def padded_length(count: int, implementation: str) -> int:
    """Return how many tokens `implementation` wants for `count`: cuDNN has no gradient for odd counts."""
    return count + count % 2 if implementation == "cudnn" else count


def linear(inputs: int, outputs: int, dtype: str, rngs: nnx.Rngs) -> Linear:
    """Return a linear layer with DINO's and timm's start: normal weights of deviation 0.02, zero biases.

    Their `trunc_normal_` cuts at -2 and 2, a hundred deviations out, so that it is a plain normal.
    """
    return Linear(inputs, outputs, dtype=jnp.dtype(dtype), kernel_init=nnx.initializers.normal(0.02), rngs=rngs)
