"""Keys depend on name and position alone."""

import jax
import jax.numpy as jnp
import numpy as np

from ssljax.ops import keys


def bits(key):
    return np.asarray(jax.random.key_data(key))


def test_streams_differ_and_are_stable():
    key = jax.random.key(0)
    assert np.any(bits(keys.named(key, "views")) != bits(keys.named(key, "heads")))
    # A stream's key must not change between versions of this package: resumed runs depend on it.
    np.testing.assert_array_equal(bits(keys.named(key, "views")), bits(jax.random.fold_in(key, 0x11F09C87)))


def test_a_sample_has_its_key_in_any_batch():
    key = jax.random.key(0)
    whole = bits(keys.per_sample(key, jnp.arange(8, dtype=jnp.uint32)))
    np.testing.assert_array_equal(whole[3:5], bits(keys.per_sample(key, jnp.array([3, 4], jnp.uint32))))
    assert len(np.unique(whole, axis=0)) == 8
