"""Projection heads between an encoder and a loss."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ssljax.errors import InputError
from ssljax.mesh import gather, shard_features
from ssljax.models.attention import linear
from ssljax.models.norm import BatchNorm
from ssljax.models.products import Linear, gelu, matmul_to_float32


def _check_dtype(dtype: str) -> None:
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"dtype {dtype!r} is unknown: use float32 or bfloat16")


class WeightNormalised(nnx.Module):
    """A linear map without bias whose columns have length `gain`, whatever the length of the kernel's.

    Salimans and Kingma 2016. The kernel starts uniform within 1 / sqrt(inputs), as PyTorch's Linear, the gain at one.

    Args:
        inputs: Width of the input.
        outputs: Width of the output.
        fixed: Whether the gain stays one and is no parameter.
        dtype: Of the matrix product's inputs; its output is float32.
        rngs: For the initial weights.
    """

    def __init__(self, *, inputs: int, outputs: int, fixed: bool, dtype: str, rngs: nnx.Rngs) -> None:
        bound = 1.0 / math.sqrt(inputs)
        self.fixed, self.dtype = fixed, dtype
        self.kernel = nnx.Param(jax.random.uniform(rngs.params(), (inputs, outputs), minval=-bound, maxval=bound))
        if not fixed:
            self.gain = nnx.Param(jnp.ones((outputs,)))

    def __call__(self, x: Float[Array, "*b i"], factors: Float[Array, " o"] | None = None) -> Float[Array, "*b o"]:
        """Return the mapped x in float32; factors as `factors` returns them, which is called by default."""
        factors = self.factors() if factors is None else factors
        # Of the product, which has few rows: no normalised kernel is made, nor its gradient.
        y = matmul_to_float32(x.astype(self.dtype), gather(self.kernel[...], "last/kernel"))
        return shard_features(y) * factors.reshape((1,) * (y.ndim - 1) + factors.shape)

    def factors(self) -> Float[Array, " o"]:
        """Return what gives the kernel's columns their length: gain over norm."""
        factors = jax.lax.rsqrt(jnp.sum(jnp.square(self.kernel[...]), axis=0))
        return factors if self.fixed else factors * self.gain[...]


class DINOHead(nnx.Module):
    """DINO's projection head (Caron et al. 2021, appendix C): an MLP with exact GELU, L2 norm, weight-normalised layer.

    Args:
        width: Of the encoder's tokens.
        hidden: Width of the MLP's hidden layers.
        bottleneck: Width of its output.
        prototypes: Number of logits.
        layers: Of the MLP.
        norm_last_layer: Whether the prototypes have unit length; otherwise their lengths are learned.
        dtype: Of the computation; the outputs of both methods are float32.
        rngs: For the initial weights.

    Raises:
        InputError: If there is no layer, a width is less than 1, or the dtype is unknown.
    """

    def __init__(
        self,
        *,
        width: int,
        hidden: int = 2048,
        bottleneck: int = 256,
        prototypes: int = 65536,
        layers: int = 3,
        norm_last_layer: bool = True,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ) -> None:
        _check_dtype(dtype)
        for name, value in {"hidden": hidden, "bottleneck": bottleneck, "prototypes": prototypes}.items():
            if value < 1:
                raise InputError(f"{name} is {value}: a head needs at least 1")
        if layers < 1:
            raise InputError(f"layers is {layers}: a head needs at least one")
        self.layers, self.prototypes, self.dtype = layers, prototypes, dtype
        widths = [width, *[hidden] * (layers - 1), bottleneck]
        for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            setattr(self, f"fc{i + 1}", linear(inputs, outputs, dtype, rngs))
        self.last = WeightNormalised(
            inputs=bottleneck, outputs=prototypes, fixed=norm_last_layer, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Float[Array, "*b d"], factors: Float[Array, " k"] | None = None) -> Float[Array, "*b k"]:
        """Return the logits of all prototypes; factors as in `logits`."""
        return self.logits(self.project(x), factors)

    @jax.named_scope("head")
    def project(self, x: Float[Array, "*b d"]) -> Float[Array, "*b z"]:
        """Return the bottleneck's unit vectors."""
        for i in range(1, self.layers + 1):
            x = getattr(self, f"fc{i}")(x)
            x = gelu(x) if i < self.layers else x
        x = x.astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))

    @jax.named_scope("prototypes")
    def logits(self, z: Float[Array, "*b z"], factors: Float[Array, " k"] | None = None) -> Float[Array, "*b k"]:
        """Return the logits of bottleneck vectors; linear, so that their mean's logits are the mean of the logits.

        Args:
            z: Unit vectors, as `project` returns them.
            factors: What `factors` returned, where it is called once for several calls; by default it is called here.
        """
        return self.last(z, factors)

    def factors(self) -> Float[Array, " k"]:
        """Return what each prototype's product is multiplied by, for the prototypes to have their lengths."""
        return self.last.factors()


class BatchNormMLP(nnx.Module):
    """Linear layers without bias, batch norm after each and ReLU between: the projectors and predictors of SimCLR on.

    The last batch norm has neither scale nor bias, as in MoCo v3 (Chen et al. 2021); the batch is the whole mesh's.
    Kernels start uniform within 1 / sqrt(inputs), as PyTorch's Linear.

    Args:
        width: Of the input: of the encoder's features, or of the projector's output.
        hidden: Width of the hidden layers.
        outputs: Width of the output.
        layers: Number of linear layers.
        last_norm: Whether a batch norm follows the last layer.
        dtype: Of the computation; the output is float32.
        rngs: For the initial weights.

    Raises:
        InputError: If there is no layer, a width is less than 1, or the dtype is unknown.
    """

    def __init__(
        self,
        *,
        width: int,
        hidden: int,
        outputs: int,
        layers: int,
        last_norm: bool = True,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ) -> None:
        _check_dtype(dtype)
        for name, value in {"hidden": hidden, "outputs": outputs, "layers": layers}.items():
            if value < 1:
                raise InputError(f"{name} is {value}: a head needs at least 1")
        self.layers, self.last_norm = layers, last_norm
        widths = [width, *[hidden] * (layers - 1), outputs]
        for i, (inputs, outs) in enumerate(itertools.pairwise(widths), start=1):
            start = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
            setattr(
                self,
                f"fc{i}",
                Linear(inputs, outs, use_bias=False, dtype=jnp.dtype(dtype), kernel_init=start, rngs=rngs),
            )
            if i < layers or last_norm:
                setattr(self, f"norm{i}", BatchNorm(outs, affine=i < layers, dtype=dtype))

    @jax.named_scope("head")
    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b z"]:
        """Return the projected features, not normalised to length one."""
        for i in range(1, self.layers + 1):
            x = getattr(self, f"fc{i}")(x)
            if i < self.layers:
                x = jax.nn.relu(getattr(self, f"norm{i}")(x))
            elif self.last_norm:
                x = getattr(self, f"norm{i}")(x)
        return x.astype(jnp.float32)
