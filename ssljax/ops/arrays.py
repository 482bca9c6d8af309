"""What a public function on arrays takes."""

import jax
import numpy as np

Array = jax.Array | np.ndarray
"""JAX's arrays, traced ones among them, and NumPy's."""
