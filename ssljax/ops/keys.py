"""Random keys derived from (seed, name, step, sample), so that no draw depends on how the work is laid out."""

from __future__ import annotations

import zlib

import jax
from jaxtyping import Integer, Key

from ssljax.ops.arrays import Array


def named(key: Key[jax.Array, ""], name: str) -> Key[jax.Array, ""]:
    """Return the key of the stream called `name`; adding a stream never changes another."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def per_sample(key: Key[jax.Array, ""], position: Integer[Array, " b"]) -> Key[jax.Array, " b"]:
    """Return one key a sample from its global position in the data, whatever batch, device or process holds it."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, position)
