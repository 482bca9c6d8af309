"""Batch normalisation over the batch of the whole mesh."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class BatchNorm(nnx.Module):
    """Normalise each channel by its mean and variance over all other axes (Ioffe and Szegedy 2015), in float32.

    Under `jit` these are means over the whole batch, on however many devices it lies. In training mode (`train()`) the
    batch's mean and its unbiased variance, as PyTorch keeps it, are left in `mean` and `var`; in evaluation mode, the
    default, those that were put there are used.

    Args:
        width: Number of channels, the last axis.
        affine: Whether a learned scale and bias follow.
        scale: Their initial scale.
        eps: Added to the variance.
        dtype: Of the output.
    """

    def __init__(
        self, width: int, *, affine: bool = True, scale: float = 1.0, eps: float = 1e-5, dtype: str = "float32"
    ) -> None:
        self.affine, self.eps, self.dtype = affine, eps, dtype
        self.use_running_average = True  # the attribute that NNX's train() and eval() set
        if affine:
            self.scale = nnx.Param(jnp.full((width,), scale))
            self.bias = nnx.Param(jnp.zeros((width,)))
        self.mean = nnx.BatchStat(jnp.zeros((width,)))
        self.var = nnx.BatchStat(jnp.ones((width,)))

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """Return x normalised."""
        x = x.astype(jnp.float32)
        row = (1,) * (x.ndim - 1) + x.shape[-1:]
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            axes, count = tuple(range(x.ndim - 1)), math.prod(x.shape[:-1])
            mean = jnp.mean(x, axes)
            var = jnp.mean(jnp.square(x - mean.reshape(row)), axes)
            self.mean[...] = jax.lax.stop_gradient(mean)
            self.var[...] = jax.lax.stop_gradient(var) * (count / max(count - 1, 1))
        factor = jax.lax.rsqrt(var + self.eps)
        factor = factor * self.scale[...] if self.affine else factor
        x = (x - mean.reshape(row)) * factor.reshape(row)
        return (x + self.bias[...].reshape(row) if self.affine else x).astype(self.dtype)
