"""How all tests run: eight simulated devices, shapes checked, nothing promoted silently."""

from __future__ import annotations

import os
from pathlib import Path

# Before JAX is imported anywhere, and inherited by the processes that tests start.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8").strip()
# Simulated devices wait for each other inside the threads that run their programs, in no fixed order of their sums: of
# as many threads as devices all may wait for one that has none left. This is how many XLA makes.
os.environ["NPROC"] = "32"
# Most of the time goes into compiling, and most programs are the last run's: they are found again by their contents.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
import jaxtyping
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# From here on every shape annotation of the package is checked at every call.
jaxtyping.install_import_hook("ssljax", "checked.check")


@pytest.fixture(scope="module", autouse=True)
def compiled_programs():
    """Let go of a file's programs after it: they are some gigabytes in the end, and hardly shared between files."""
    yield
    jax.clear_caches()
