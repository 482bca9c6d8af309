"""Views that cost nothing, the same in NumPy and JAX, in the shapes that objectives take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import given, small, step_ssljax


@pytest.mark.parametrize("name", small.NAMES)
def test_both_sides_see_the_same_views_in_the_shapes_of_the_real_ones(name):
    config = step_ssljax.read_config(f"benchmarks/small.py:{name}", [])
    problem = step_ssljax.describe(config)
    objective = step_ssljax.build.objective(config)
    sample = given.pixels(problem)[0]
    ours = step_ssljax.with_given_views(objective, problem).views(jnp.asarray(sample), jax.random.key(0))
    real = jax.eval_shape(objective.views, sample, jax.random.key(0))
    theirs = given.views(problem, sample)
    shapes = [[leaf.shape for leaf in jax.tree.leaves(views) if leaf.size] for views in (ours, real)]
    assert shapes[0] == shapes[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), ours, theirs)
