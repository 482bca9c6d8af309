"""Losses against the papers' released code (golden numbers) and plain NumPy."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from ssljax import mesh
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


def reference_nt_xent(z1, z2, temperature):
    """Equation 1 of Chen et al. 2020 for all 2n anchors, whole, in the dtype of its input."""
    z = jnp.concatenate([z1, z2])
    z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    n = len(z1)
    similarities = z @ z.T / temperature
    partner = jnp.roll(jnp.arange(2 * n), n)
    positive = similarities[jnp.arange(2 * n), partner]
    return jnp.mean(jax.nn.logsumexp(similarities.at[jnp.diag_indices(2 * n)].set(-jnp.inf), axis=-1) - positive)


def reference_info_nce(queries, keys, temperature):
    """Algorithm 1 of Chen et al. 2021, its labels on the diagonal."""
    queries, keys = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (queries, keys))
    log_softmax = jax.nn.log_softmax(queries @ keys.T / temperature, axis=-1)
    return -2 * temperature * jnp.mean(jnp.diagonal(log_softmax))


@pytest.mark.parametrize("block_size", [None, 1, 7, 16, 100])
@pytest.mark.parametrize("n", [2, 13])
def test_blocks_change_neither_value_nor_gradient(n, block_size):
    random = np.random.default_rng(n)
    with jax.enable_x64(True):  # so that the comparison is of the algorithms, not of their rounding
        one, other = jnp.asarray(random.normal(size=(2, n, 5)))
        expected = jax.value_and_grad(reference_nt_xent, (0, 1))(one, other, 0.1)
        queries = jax.value_and_grad(reference_info_nce)(one, other, 0.2)
    one, other = one.astype(np.float32), other.astype(np.float32)

    def check(actual, expected):
        np.testing.assert_allclose(actual[0], expected[0], rtol=1e-6, atol=1e-7)
        for a, e in zip(jax.tree.leaves(actual[1]), jax.tree.leaves(expected[1]), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6 * np.abs(e).max() + 1e-7)

    options = dict(block_size=block_size)
    loss = lambda a, b: losses.nt_xent(a, b, temperature=0.1, **options)  # noqa: E731
    check(jax.jit(jax.value_and_grad(loss, (0, 1)))(one, other), expected)
    loss = lambda a, b: losses.info_nce(a, b, temperature=0.2, **options)  # noqa: E731
    check(jax.jit(jax.value_and_grad(loss))(one, other), queries)
    assert not np.any(jax.grad(loss, 1)(one, other))


def test_a_small_temperature_does_not_overflow():
    one, other = np.random.default_rng(0).normal(size=(2, 9, 5))
    z = np.concatenate([one, other])
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    similarities = z @ z.T / 1e-3
    np.fill_diagonal(similarities, -np.inf)
    expected = np.mean(logsumexp(similarities, axis=-1) - similarities[np.arange(18), np.roll(np.arange(18), 9)])
    one, other = one.astype(np.float32), other.astype(np.float32)
    value, gradient = jax.value_and_grad(losses.nt_xent)(one, other, temperature=1e-3, block_size=4)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("loss", [losses.nt_xent, losses.info_nce])
def test_memory_of_blocks_grows_with_the_batch_and_not_with_its_square(loss):
    def temporaries(n, block_size, devices=None):
        def gradient(one, other):
            one, other = mesh.shard_batch((one, other))
            return jax.grad(loss)(one, other, temperature=0.1, block_size=block_size)

        devices = mesh.make_mesh("", devices)
        rows = jax.ShapeDtypeStruct((n, 8), np.float32, sharding=jax.NamedSharding(devices, mesh.BATCH))
        with jax.set_mesh(devices):
            return jax.jit(gradient).lower(rows, rows).compile().memory_analysis().temp_size_in_bytes

    single = jax.devices()[:1]
    blocks = [temporaries(n, 256, single) for n in (2048, 4096, 8192)]
    whole = [temporaries(n, None, single) for n in (2048, 4096, 8192)]
    for i in range(2):
        assert 1.8 < blocks[i + 1] / blocks[i] < 2.2
        assert 3.6 < whole[i + 1] / whole[i] < 4.4
    # On the mesh: a device's rows by a block, and all keys and their gradients, 8 wide.
    eight = [temporaries(n, 256) for n in (2048, 4096, 8192)]
    for n, size in zip((2048, 4096, 8192), eight, strict=True):
        views = 2 * n if loss is losses.nt_xent else n
        assert size < 4 * (3 * views // 8 * 256 + 8 * views * 8)


@pytest.mark.parametrize("block_size", [None, 3])
def test_eight_devices_give_one_devices_loss(block_size):
    one, other = np.random.default_rng(0).normal(size=(2, 16, 5)).astype(np.float32)

    def both(one, other):
        one, other = mesh.shard_batch((one, other))
        nt_xent = losses.nt_xent(one, other, temperature=0.1, block_size=block_size)
        return nt_xent + losses.info_nce(one, other, temperature=0.2, block_size=block_size)

    expected = jax.jit(jax.value_and_grad(both))(one, other)
    devices = mesh.make_mesh("fsdp=4")
    with jax.set_mesh(devices):
        actual = jax.jit(jax.value_and_grad(both))(*mesh.to_mesh(devices, (one, other), 16))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, expected)


@pytest.mark.parametrize("block_size", [None, 4])
def test_retrieval_accuracy_equals_argmax(block_size):
    queries, noise = np.random.default_rng(0).normal(size=(2, 30, 5)).astype(np.float32)
    keys = queries + 0.8 * noise
    cosines = (queries @ keys.T) / np.linalg.norm(keys, axis=-1)
    expected = np.mean(cosines.argmax(axis=-1) == np.arange(30))
    assert 0.2 < expected < 0.9
    np.testing.assert_allclose(losses.retrieval_accuracy(queries, keys, block_size=block_size), expected, rtol=1e-6)
    assert losses.retrieval_accuracy(np.ones_like(keys), np.ones_like(keys), block_size=block_size) == 0


@pytest.mark.parametrize("loss", [losses.nt_xent, losses.info_nce])
@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (1, dict(temperature=0.1), "batch of 2 or more"),
        (4, dict(temperature=0.0), "temperature is 0.0"),
        (4, dict(temperature=0.1, block_size=0), "block_size is 0"),
    ],
)
def test_a_contrastive_loss_of_nothing_is_refused(loss, n, options, message):
    x = np.ones((n, 3), np.float32)
    with pytest.raises(InputError, match=message):
        loss(x, x, **options)


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
