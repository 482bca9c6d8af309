"""Losses against the papers' released code (golden numbers) and plain NumPy."""

from pathlib import Path

import jax
import numpy as np
import pytest

from ssljax.errors import InputError
from ssljax.ops import losses

GOLDEN = Path(__file__).parents[1] / "golden"


def test_dino_loss_gradient_and_center_equal_released_code():
    golden = np.load(GOLDEN / "dino_loss.npz")

    def loss(student):
        return losses.dino_cross_entropy(
            student,
            golden["teacher_logits"],
            golden["center"],
            student_temperature=float(golden["student_temperature"]),
            teacher_temperature=float(golden["teacher_temperature"]),
        )

    value, gradient = jax.value_and_grad(loss)(golden["student_logits"])
    np.testing.assert_allclose(value, golden["loss"], rtol=1e-5)
    np.testing.assert_allclose(gradient, golden["student_gradient"], atol=1e-5)
    center = losses.update_center(
        golden["center"], golden["teacher_logits"].mean(axis=(0, 1)), momentum=float(golden["center_momentum"])
    )
    np.testing.assert_allclose(center, golden["new_center"], atol=1e-5)


def test_dino_loss_sends_no_gradient_to_the_teacher():
    golden = np.load(GOLDEN / "dino_loss.npz")

    def loss(teacher):
        return losses.dino_cross_entropy(
            golden["student_logits"], teacher, golden["center"], student_temperature=0.1, teacher_temperature=0.05
        )

    assert not np.any(jax.grad(loss)(golden["teacher_logits"]))


def test_contrastive_losses_equal_released_code():
    golden = np.load(GOLDEN / "contrastive.npz")
    temperature = float(golden["temperature"])
    symmetric = losses.info_nce(golden["q1"], golden["k2"], temperature=temperature) + losses.info_nce(
        golden["q2"], golden["k1"], temperature=temperature
    )
    np.testing.assert_allclose(symmetric, golden["mocov3_loss"], rtol=1e-5)
    value = losses.nt_xent(golden["z1"], golden["z2"], temperature=float(golden["nt_xent_temperature"]))
    np.testing.assert_allclose(value, golden["nt_xent"], rtol=1e-5)


def test_cross_entropy_and_entropy_equal_their_definitions():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 3, 10)) * 5
    targets = rng.dirichlet(np.ones(10), size=(4, 1))
    scaled = logits / 0.1
    log_softmax = scaled - np.log(np.exp(scaled - scaled.max(-1, keepdims=True)).sum(-1, keepdims=True))
    log_softmax -= scaled.max(-1, keepdims=True)
    value = losses.soft_cross_entropy(logits.astype(np.float32), targets.astype(np.float32), temperature=0.1)
    np.testing.assert_allclose(value, -(targets * log_softmax).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(
        losses.entropy(targets.astype(np.float32)), -(targets * np.log(targets)).sum(-1), rtol=1e-5
    )


def test_koleo_and_its_gradient_equal_loops_in_float64():
    x = np.random.default_rng(0).normal(size=(7, 5))

    def plain(x):
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        nearest = [min(np.linalg.norm(a - b) for j, b in enumerate(unit) if j != i) for i, a in enumerate(unit)]
        return -np.mean(np.log(nearest))

    value, gradient = jax.value_and_grad(losses.koleo)(x.astype(np.float32))
    np.testing.assert_allclose(value, plain(x), rtol=1e-5)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-6
        np.testing.assert_allclose(gradient[index], (plain(x + step) - plain(x - step)) / 2e-6, rtol=1e-4, atol=1e-5)


def test_koleo_of_equal_features_is_finite():
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    value, gradient = jax.value_and_grad(losses.koleo)(np.concatenate([x, x[:2]]))
    assert np.isfinite(value) and np.isfinite(gradient).all()
    with pytest.raises(InputError, match="no neighbour"):
        losses.koleo(x[:1])
