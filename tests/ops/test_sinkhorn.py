"""Sinkhorn-Knopp against the released code's numbers and against the definition in float64."""

from pathlib import Path

import numpy as np
import pytest

from ssljax.ops.sinkhorn import sinkhorn_knopp

GOLDEN = Path(__file__).parents[1] / "golden" / "dora_tracker.npz"


@pytest.mark.parametrize(("iterations", "name"), [(30, "assignment"), (3, "assignment_3_iterations")])
def test_equals_released_code(iterations, name):
    golden = np.load(GOLDEN)
    assignment = sinkhorn_knopp(golden["scores"], epsilon=0.05, iterations=iterations)
    np.testing.assert_allclose(assignment, golden[name], atol=1e-5)


def test_equals_plain_iteration_in_float64():
    scores = np.random.default_rng(0).normal(size=(2, 20, 4))
    plain = np.exp(scores / 0.3)
    for _ in range(5):
        plain /= plain.sum(axis=1, keepdims=True) * 4
        plain /= plain.sum(axis=2, keepdims=True) * 20
    assignment = sinkhorn_knopp(scores.astype(np.float32), epsilon=0.3, iterations=5)
    np.testing.assert_allclose(assignment, plain * 20, rtol=1e-5)


def test_balances_columns_where_exponentials_overflow():
    scores = (np.random.default_rng(1).normal(size=(50, 3)) * 100).astype(np.float32)
    assignment = np.asarray(sinkhorn_knopp(scores, epsilon=0.5, iterations=2000))
    np.testing.assert_allclose(assignment.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(assignment.sum(axis=0), 50 / 3, rtol=0.02)


def test_rows_that_do_not_count_change_nothing():
    """The assignment of the counted rows is the plain iteration over these alone, whatever the other scores are."""
    random = np.random.default_rng(0)
    scores, counted = random.normal(size=(20, 4)), random.random(20) < 0.6
    plain = np.exp(scores[counted] / 0.3)
    for _ in range(3):
        plain /= plain.sum(axis=0, keepdims=True)
        plain /= plain.sum(axis=1, keepdims=True)
    scores[~counted] *= 100
    assignment = sinkhorn_knopp(scores.astype(np.float32), epsilon=0.3, iterations=3, counted=counted)
    np.testing.assert_allclose(assignment[counted], plain, rtol=1e-5)
    assert np.isfinite(assignment).all()
