"""Softmax attention against JAX's own and against its formula in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax.models.attention import attend


def drawn(rows, tokens, dtype="float32"):
    """Queries, keys, values and what their outputs are weighted by."""
    random = np.random.default_rng(0)
    shapes = [(2, rows, 3, 8), (2, tokens, 3, 8), (2, tokens, 3, 8), (2, rows, 3, 8)]
    return [jnp.asarray(3.0 * random.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize("length", [None, 11])
@pytest.mark.parametrize("rows", [13, 1])
def test_value_and_gradient_equal_jaxs(rows, length):
    *tensors, g = drawn(rows, 13)
    lengths = None if length is None else jnp.full((2,), length, jnp.int32)
    wanted, wanted_back = jax.vjp(
        lambda *qkv: jax.nn.dot_product_attention(*qkv, key_value_seq_lengths=lengths), *tensors
    )
    found, found_back = jax.vjp(lambda *qkv: attend(*qkv, implementation="xla", length=length), *tensors)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    for a, b in zip(found_back(g), wanted_back(g), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equals_numpy(dtype):
    queries, keys, values, _ = drawn(5, 7, dtype)
    logits = np.einsum("bmhd,bnhd->bhmn", np.float64(queries), np.float64(keys)) / np.sqrt(8)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    wanted = np.einsum("bhmn,bnhd->bmhd", weights / weights.sum(-1, keepdims=True), np.float64(values))
    found = attend(queries, keys, values, implementation="xla")
    assert found.dtype == dtype
    np.testing.assert_allclose(np.float64(found), wanted, atol=1e-5 if dtype == "float32" else 5e-2)


def test_large_logits_stay_finite():
    queries, keys, values, g = (100.0 * x for x in drawn(5, 7))
    y, back = jax.vjp(lambda *qkv: attend(*qkv, implementation="xla"), queries, keys, values)
    assert all(np.isfinite(x).all() for x in (y, *back(g)))
