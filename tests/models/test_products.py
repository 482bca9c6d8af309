"""Products whose weights get float32 gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax.models import products


def drawn(*shapes, dtype):
    """Random values that bfloat16 holds exactly."""
    random = np.random.default_rng(0)
    return [jnp.asarray(random.normal(size=shape), jnp.bfloat16).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("function", [products.matmul, products.matmul_to_float32])
def test_a_kernels_gradient_is_not_rounded_to_bfloat16(function):
    x, g = drawn((64, 5, 24), (64, 5, 16), dtype=jnp.bfloat16)
    (kernel,) = drawn((24, 16), dtype=jnp.float32)
    y, back = jax.vjp(function, x, kernel)
    dx, dk = back(g.astype(y.dtype))
    exact = np.einsum("bni,bno->io", np.float64(x), np.float64(g))
    assert dk.dtype == jnp.float32
    np.testing.assert_allclose(dk, exact, rtol=1e-5, atol=1e-5)  # of bfloat16 it would be 4e-3
    np.testing.assert_allclose(np.float64(dx), np.float64(g) @ np.float64(kernel).T, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(np.float64(y), np.float64(x) @ np.float64(kernel), rtol=1e-2, atol=5e-2)


def test_a_biass_gradient_is_not_rounded_to_bfloat16():
    x, g = drawn((64, 5, 16), (64, 5, 16), dtype=jnp.bfloat16)
    y, back = jax.vjp(products.add_to_rows, x, jnp.ones(16))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(back(g)[1], np.float64(g).sum((0, 1)), rtol=1e-5, atol=1e-5)


def test_gelu_and_its_slope_equal_the_formulas():
    x = np.linspace(-9, 9, 1001)
    cumulative = np.vectorize(lambda x: (1 + math.erf(x / math.sqrt(2))) / 2)(x)
    slope = cumulative + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    y, back = jax.vjp(products.gelu, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(y, x * cumulative, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(back(jnp.ones(1001))[0], slope, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_product_of_gelu_equals_gelu_then_product(dtype):
    x, g = drawn((4, 5, 24), (4, 5, 16), dtype=dtype)
    (kernel,) = drawn((24, 16), dtype=jnp.float32)
    wanted, wanted_back = jax.vjp(lambda x, kernel: products.matmul(products.gelu(x), kernel), x, kernel)
    found, found_back = jax.vjp(products.gelu_matmul, x, kernel)
    assert found.dtype == dtype
    for a, b in zip((found, *found_back(g)), (wanted, *wanted_back(g)), strict=True):
        assert a.dtype == b.dtype
        loose = 1e-5 if a.dtype == jnp.float32 else 1e-2
        np.testing.assert_allclose(np.float64(a), np.float64(b), rtol=loose, atol=loose)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("size", "stride", "side"), [(1, 1, 8), (1, 2, 7), (3, 1, 8), (3, 2, 8), (3, 2, 9), (7, 2, 16)]
)
def test_a_convolutions_gradient_equals_jaxs(size, stride, side, dtype):
    x, kernel = drawn((4, side, side, 3), (size, size, 3, 5), dtype=jnp.float32)

    def exact(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride,) * 2,
            ((size // 2,) * 2,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )

    y, back = jax.vjp(exact, x, kernel)
    (g,) = drawn(y.shape, dtype=jnp.float32)
    wanted = back(g)
    found, back = jax.vjp(lambda x, kernel: products.convolve(x, kernel, stride), x.astype(dtype), kernel)
    dx, dk = back(g.astype(dtype))
    assert dk.dtype == jnp.float32
    loose = 1e-4 if dtype == "float32" else 5e-2
    np.testing.assert_allclose(np.float32(found), y, rtol=loose, atol=loose)
    np.testing.assert_allclose(np.float32(dx), wanted[0], rtol=loose, atol=loose)
    np.testing.assert_allclose(dk, wanted[1], rtol=1e-4, atol=1e-4)  # in either dtype
