"""Products with weights whose gradients are float32 from the first sum on, whatever the computation's dtype.

A weight's gradient sums over the batch. Cast inside the loss, a float32 weight would get a gradient that each device
rounds to bfloat16 before the devices' sums are added, in bfloat16 again; here the matrix unit's float32 sums are added.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ssljax.mesh import gather


@jax.custom_vjp
def matmul(x: Float[Array, "*b i"], kernel: Float[Array, "i o"]) -> Float[Array, "*b o"]:
    """Return x @ kernel, computed in x's dtype; the kernel's gradient is float32."""
    return x @ kernel.astype(x.dtype)


def _matmul_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel.astype(x.dtype), (x, kernel)  # the product itself, for `remat="dots"` to see it


def _matmul_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    return g @ kernel.astype(g.dtype).T, jnp.einsum("...i,...o->io", x, g, preferred_element_type=jnp.float32)


matmul.defvjp(_matmul_forward, _matmul_backward)


@jax.custom_vjp
def matmul_to_float32(x: Float[Array, "*b i"], kernel: Float[Array, "i o"]) -> Float[Array, "*b o"]:
    """Return x @ kernel in float32, factors in x's dtype; the kernel's gradient is float32."""
    return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)


def _to_float32_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32), (x, kernel)


def _to_float32_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    return _matmul_backward(saved, g.astype(saved[0].dtype))


matmul_to_float32.defvjp(_to_float32_forward, _to_float32_backward)


@jax.custom_vjp
def add_to_rows(x: Float[Array, "*b o"], bias: Float[Array, " o"]) -> Float[Array, "*b o"]:
    """Return x + bias in x's dtype; the bias's gradient is float32."""
    return x + bias.astype(x.dtype).reshape((1,) * (x.ndim - 1) + bias.shape)


def _add_forward(x: Array, bias: Array) -> tuple[Array, None]:
    return x + bias.astype(x.dtype).reshape((1,) * (x.ndim - 1) + bias.shape), None


def _add_backward(_: None, g: Array) -> tuple[Array, Array]:
    return g, jnp.sum(g, axis=tuple(range(g.ndim - 1)), dtype=jnp.float32)


add_to_rows.defvjp(_add_forward, _add_backward)


@jax.custom_vjp
def gelu(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Return the exact GELU, x Phi(x) (Hendrycks and Gimpel 2016); of its input alone the gradient is made anew.

    Differentiated as it is written, it would keep four arrays of x's size where one will do.
    """
    return _gelu_and_slope(x)[0].astype(x.dtype)


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    return _gelu_and_slope(x)[0].astype(x.dtype), x


def _gelu_backward(x: Array, g: Array) -> tuple[Array]:
    return ((g.astype(jnp.float32) * _gelu_and_slope(x)[1]).astype(g.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


def _gelu_and_slope(x: Array) -> tuple[Array, Array]:
    """Return x Phi(x) and its derivative Phi(x) + x phi(x), in float32."""
    wide = x.astype(jnp.float32)
    cumulative = 0.5 + 0.5 * jax.lax.erf(wide * 0.5**0.5)  # an operation of XLA's own, unlike erfc
    return wide * cumulative, cumulative + wide * jnp.exp(-0.5 * jnp.square(wide)) * (2.0 * jnp.pi) ** -0.5


@jax.custom_vjp
def gelu_matmul(x: Float[Array, "*b i"], kernel: Float[Array, "i o"]) -> Float[Array, "*b o"]:
    """Return gelu(x) @ kernel as `matmul` does; x alone is kept, and gelu(x) made anew together with its slope."""
    return matmul(gelu(x), kernel)


def _gelu_matmul_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _gelu_and_slope(x)[0].astype(x.dtype) @ kernel.astype(x.dtype), (x, kernel)


def _gelu_matmul_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    hidden, slope = _gelu_and_slope(x)
    of_hidden = g @ kernel.astype(g.dtype).T
    # What is transposed before a product is the narrower factor, behind a barrier: else XLA transposes the other one,
    # and makes GELU anew while it does, one element at a time on a CPU.
    hidden = hidden.astype(x.dtype)
    of_kernel = jnp.einsum("...o,...i->oi", g, hidden, preferred_element_type=jnp.float32)
    of_kernel = jax.lax.optimization_barrier(of_kernel).T
    return (of_hidden.astype(jnp.float32) * slope).astype(x.dtype), of_kernel


gelu_matmul.defvjp(_gelu_matmul_forward, _gelu_matmul_backward)


class Linear(nnx.Linear):
    """A linear layer, parameters float32, computed in `dtype`."""

    def __call__(  # type: ignore[override]
        self, x: Float[Array, "*b i"], product: Callable[[Array, Array], Array] = matmul
    ) -> Float[Array, "*b o"]:
        """Return the transformed x; `product` is what x and the kernel go through, such as `gelu_matmul`."""
        x = x.astype(self.dtype or x.dtype)
        y = product(x, self.kernel[...])
        return y if self.bias is None else add_to_rows(y, self.bias[...])


def convolve(x: Float[Array, "b h w i"], kernel: Float[Array, "k k i o"], stride: int) -> Float[Array, "b h2 w2 o"]:
    """Return the convolution in x's dtype, padded by half the kernel; the kernel's gradient is float32."""
    return _convolve(x, gather(kernel), stride)


def _forward_convolution(x: Array, kernel: Array, stride: int) -> Array:
    half = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        window_strides=(stride,) * 2,
        padding=((half, half),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


_convolve = jax.custom_vjp(_forward_convolution, nondiff_argnums=(2,))


def _convolve_forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _forward_convolution(x, kernel, stride), (x, kernel)


def _convolve_backward(stride: int, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    """The kernel's gradient is itself a convolution: of x by g, spread by the stride, that sums over the batch."""
    x, kernel = saved
    size = kernel.shape[0]
    _, to_x = jax.vjp(lambda x: _forward_convolution(x, kernel, stride), x)
    along = jax.lax.conv_general_dilated(
        x,
        g,
        window_strides=(1, 1),
        padding=((size // 2, size // 2),) * 2,
        rhs_dilation=(stride,) * 2,
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        preferred_element_type=jnp.float32,
    )
    return *to_x(g), along[:size, :size]


_convolve.defvjp(_convolve_forward, _convolve_backward)
