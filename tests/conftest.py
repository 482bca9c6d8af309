"""How all tests run: eight simulated devices, shapes checked, nothing promoted silently."""

from __future__ import annotations

import os

# Before JAX is imported anywhere.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8").strip()

import jax
import jaxtyping

jax.config.update("jax_numpy_rank_promotion", "raise")

# From here on every shape annotation of the package is checked at every call.
jaxtyping.install_import_hook("ssljax", "beartype.beartype")
