"""The pre-norm transformer block and its parts."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ssljax.errors import InputError
from ssljax.models.attention import Attention, Probe, linear
from ssljax.models.products import gelu_matmul

MLPS = ("gelu", "swiglu")


class PatchEmbedding(nnx.Module):
    """A linear map of square patches: kernel [p * p * 3, d], rows by (row, column, channel) of the patch, and bias [d].

    Starts as PyTorch's Conv2d does (and so DINO's): uniform within 1 / sqrt(p * p * 3), kernel and bias.
    """

    def __init__(self, *, patch_size: int, width: int, rngs: nnx.Rngs) -> None:
        inputs = 3 * patch_size**2
        bound = 1.0 / math.sqrt(inputs)
        self.kernel = nnx.Param(jax.random.uniform(rngs.params(), (inputs, width), minval=-bound, maxval=bound))
        self.bias = nnx.Param(jax.random.uniform(rngs.params(), (width,), minval=-bound, maxval=bound))


class Mlp(nnx.Module):
    """Two linear layers around a non-linearity: exact GELU, or SwiGLU (Shazeer 2020) at two thirds of the width.

    SwiGLU's first layer holds the gate's columns, then the linear ones; its width is rounded up to a multiple of 8, as
    in DINOv2.

    Args:
        width: Of the tokens.
        ratio: Hidden over outer width, before SwiGLU's two thirds.
        kind: "gelu" or "swiglu".
        dtype: Of the computation.
        rngs: For the initial weights.

    Raises:
        InputError: If the kind is unknown, or nothing is left of the hidden width.
    """

    def __init__(self, *, width: int, ratio: float, kind: str, dtype: str, rngs: nnx.Rngs) -> None:
        if kind not in MLPS:
            raise InputError(f"mlp {kind!r} is unknown: use one of {', '.join(MLPS)}")
        self.gated = kind == "swiglu"
        hidden = int(width * ratio)
        if hidden < 1:
            raise InputError(f"mlp_ratio {ratio} of width {width} leaves an MLP no channel: give a larger one")
        self.hidden = (int(hidden * 2 / 3) + 7) // 8 * 8 if self.gated else hidden
        self.fc1 = linear(width, self.hidden * (2 if self.gated else 1), dtype, rngs)
        self.fc2 = linear(self.hidden, width, dtype, rngs)

    @jax.named_scope("mlp")
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Return the transformed tokens."""
        x = self.fc1(x)
        if self.gated:
            gate, x = jnp.split(x, 2, axis=-1)
            return self.fc2(jax.nn.silu(gate) * x)
        return self.fc2(x, gelu_matmul)


class LayerScale(nnx.Module):
    """A learned factor per channel that starts small (Touvron et al. 2021)."""

    def __init__(self, *, width: int, initial: float) -> None:
        self.gamma = nnx.Param(jnp.full((width,), initial))

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Return x with its channels scaled."""
        return (x.astype(jnp.float32) * self.gamma[None, None, :]).astype(x.dtype)


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        width: Of the tokens.
        heads: Of the attention.
        mlp_ratio: See `Mlp`.
        mlp: See `Mlp`.
        layer_scale: Initial value of the `LayerScale` of each branch; None is without.
        norm_eps: Of the layer norms, whose statistics are float32.
        dtype: Of the computation.
        attention: See `Attention`.
        rngs: For the initial weights.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        mlp_ratio: float,
        mlp: str,
        layer_scale: float | None,
        norm_eps: float,
        dtype: str,
        attention: str,
        rngs: nnx.Rngs,
    ) -> None:
        self.norm1 = LayerNorm(width, norm_eps, dtype, rngs)
        self.attention = Attention(width=width, heads=heads, dtype=dtype, implementation=attention, rngs=rngs)
        self.norm2 = LayerNorm(width, norm_eps, dtype, rngs)
        self.mlp = Mlp(width=width, ratio=mlp_ratio, kind=mlp, dtype=dtype, rngs=rngs)
        self.scaled = layer_scale is not None
        if layer_scale is not None:
            self.scale1 = LayerScale(width=width, initial=layer_scale)
            self.scale2 = LayerScale(width=width, initial=layer_scale)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        drop: Float[Array, "b 2"] | None = None,
        *,
        length: int | None = None,
        rows: int | None = None,
    ) -> Float[Array, "b m d"]:
        """Return the block's output.

        Args:
            x: Tokens.
            drop: Factors of the two branches of each sequence: 0 where drop path drops it, 1 / (1 - rate) elsewhere.
            length: Tokens from here on are padding.
            rows: How many of the first tokens are returned; all by default.
        """
        y = self.attention(self.norm1(x), length=length, rows=rows)
        x = self._add(x[:, :rows], self.scale1(y) if self.scaled else y, drop, 0)
        y = self.mlp(self.norm2(x))
        return self._add(x, self.scale2(y) if self.scaled else y, drop, 1)

    def probe(self, x: Float[Array, "b n d"], *, prefix: int) -> Probe:
        """Return what the attention sees of the block's input x; see `Attention.probe`."""
        return self.attention.probe(self.norm1(x), prefix=prefix)

    @staticmethod
    def _add(x: Array, y: Array, drop: Array | None, branch: int) -> Array:
        return x + (y if drop is None else y * drop[:, branch, None, None].astype(y.dtype))


class LayerNorm(nnx.LayerNorm):
    """A layer norm computed in float32, gradients of its scale and bias included, the variance from centred values.

    Args:
        width: Of the tokens.
        eps: Added to the variance.
        dtype: Of the output.
        rngs: Of the initial weights, which are not random.
    """

    def __init__(self, width: int, eps: float, dtype: str, rngs: nnx.Rngs) -> None:
        super().__init__(width, epsilon=eps, dtype=jnp.float32, use_fast_variance=False, rngs=rngs)
        self.output = jnp.dtype(dtype)

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:  # type: ignore[override]
        """Return the normalised tokens."""
        assert self.scale is not None
        assert self.bias is not None
        return normalise(x, self.scale[...], self.bias[...], self.epsilon).astype(self.output)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(x: Float[Array, "*b d"], scale: Float[Array, " d"], bias: Float[Array, " d"], eps: float) -> Array:
    """Return the layer norm of x over its last axis (Ba et al. 2016), float32.

    Its gradient keeps x as it came and two numbers a row, not the float32 arrays in between.
    """
    return _normalise_forward(x, scale, bias, eps)[0]


def _normalise_forward(x: Array, scale: Array, bias: Array, eps: float) -> tuple[Array, tuple]:
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    rate = jax.lax.rsqrt(jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True) + eps)
    shape = (1,) * (x.ndim - 1) + scale.shape
    return (wide - mean) * rate * scale.reshape(shape) + bias.reshape(shape), (x, scale, mean, rate)


def _normalise_backward(eps: float, saved: tuple, g: Array) -> tuple[Array, Array, Array]:
    x, scale, mean, rate = saved
    unscaled = (x.astype(jnp.float32) - mean) * rate
    inner = g * scale.reshape((1,) * (x.ndim - 1) + scale.shape)
    along = unscaled * jnp.mean(inner * unscaled, axis=-1, keepdims=True)
    of_x = (inner - jnp.mean(inner, axis=-1, keepdims=True) - along) * rate
    rows = tuple(range(x.ndim - 1))
    return of_x.astype(x.dtype), jnp.sum(g * unscaled, axis=rows), jnp.sum(g, axis=rows)


normalise.defvjp(_normalise_forward, _normalise_backward)


def drop_path_factors(keys: Array, depth: int, rate: float) -> Float[Array, "{depth} b 2"]:
    """Return the factors of drop path (Huang et al. 2016) of every block, sequence and branch.

    The rate grows linearly from 0 in the first block to `rate` in the last. Row i of the batch depends on keys[i] only.
    """
    kept = 1.0 - jnp.linspace(0.0, rate, depth)[:, None]
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (depth, 2)), out_axes=1)(keys)
    return jnp.where(uniform < kept[:, None, :], 1.0 / kept[:, None, :], 0.0)
