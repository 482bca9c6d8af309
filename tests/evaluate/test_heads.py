"""The grid of heads against SciPy's optimum, against heads trained alone, and on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from scipy.special import log_softmax

from ssljax.errors import InputError
from ssljax.evaluate.heads import Grid, check_rates, fit, hits, padded_batches, share_right, total_steps
from ssljax.evaluate.linear import LinearHead, lars_direction
from ssljax.mesh import make_mesh, to_mesh
from ssljax.models.pure import Pure
from ssljax.optim import constant, cosine

CLASSES, WIDTH, COUNT = 4, 6, 96


def problem():
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, COUNT)
    features = random.normal(size=(CLASSES, WIDTH))[labels] + random.normal(size=(COUNT, WIDTH))
    return features.astype(np.float32), labels.astype(np.int32)


FEATURES, LABELS = problem()


def head(**options):
    return Pure(functools.partial(LinearHead, width=WIDTH, classes=CLASSES, **options))


def train(grid, steps, features=FEATURES, labels=LABELS):
    update = jax.jit(grid.update)
    heads = grid.init(jax.random.key(0))
    for _ in range(steps):
        heads, losses = update(heads, features, labels)
    return heads, losses


def test_the_optimum_of_scipy():
    """Multinomial logistic regression with weight decay is strictly convex: one optimum, found by BFGS in float64."""
    decay = 0.05

    def objective(flat):
        kernel, bias = flat[: WIDTH * CLASSES].reshape(WIDTH, CLASSES), flat[WIDTH * CLASSES :]
        logs = log_softmax(FEATURES.astype(np.float64) @ kernel + bias, axis=1)
        error = (np.exp(logs) - np.eye(CLASSES)[LABELS]) / COUNT
        gradient = np.concatenate([(FEATURES.T @ error).ravel(), error.sum(0)]) + decay * flat
        return -logs[np.arange(COUNT), LABELS].mean() + 0.5 * decay * flat @ flat, gradient

    best = scipy.optimize.minimize(
        objective, np.zeros((WIDTH + 1) * CLASSES), jac=True, method="BFGS", options={"gtol": 1e-9}
    )
    assert np.abs(best.jac).max() < 1e-7
    direction = optax.chain(optax.add_decayed_weights(decay), optax.trace(decay=0.9))
    heads, losses = train(Grid(head(), (0.05, 0.2), direction, constant(value=1.0)), 1500)
    linear = heads.params["linear"]
    for i in range(2):
        found = np.concatenate([np.asarray(linear["kernel"][i]).ravel(), np.asarray(linear["bias"][i])])
        np.testing.assert_allclose(found, best.x, atol=2e-5)
        assert float(losses[i]) + 0.5 * decay * found @ found == pytest.approx(best.fun, abs=1e-6)


DIRECTIONS = {
    "sgd": (optax.trace(decay=0.9), False),
    "lars": (lars_direction(), True),
    "adamw": (optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.01)), False),
}


@pytest.mark.parametrize("name", DIRECTIONS)
def test_the_grid_is_each_rate_alone(name):
    direction, normalise = DIRECTIONS[name]
    schedule = cosine(start=1.0, end=0.0, steps=20, warmup_steps=3)
    rates = (0.01, 0.3, 2.0)
    together, losses = train(Grid(head(normalise=normalise), rates, direction, schedule), 20)
    for i, rate in enumerate(rates):
        alone, loss = train(Grid(head(normalise=normalise), (rate,), direction, schedule), 20)
        jax.tree.map(
            lambda one, many, i=i: np.testing.assert_allclose(one[0], many[i], rtol=1e-5, atol=1e-6),
            alone[1:],
            together[1:],
        )
        assert float(loss[0]) == pytest.approx(float(losses[i]), rel=1e-5)


def test_sgd_is_pytorchs_rule():
    """v <- 0.9 v + g, w <- w - rate_t v with rate_t on half a cosine, in float64 NumPy."""
    grid = Grid(head(), (0.5,), optax.trace(decay=0.9), cosine(start=1.0, end=0.0, steps=30))
    heads, _ = train(grid, 30)
    start = grid.init(jax.random.key(0)).params["linear"]
    w, b = (np.asarray(start[name][0], np.float64) for name in ("kernel", "bias"))
    v, u = np.zeros_like(w), np.zeros_like(b)
    for step in range(30):
        error = (np.exp(log_softmax(FEATURES @ w + b, axis=1)) - np.eye(CLASSES)[LABELS]) / COUNT
        v, u = 0.9 * v + FEATURES.T @ error, 0.9 * u + error.sum(0)
        rate = 0.5 * 0.5 * (1 + np.cos(np.pi * step / 30))
        w, b = w - rate * v, b - rate * u
    np.testing.assert_allclose(heads.params["linear"]["kernel"][0], w, atol=2e-6)
    np.testing.assert_allclose(heads.params["linear"]["bias"][0], b, atol=2e-6)


def test_lars_and_batch_norm_are_maes():
    """MAE's linear probe in float64 NumPy: batch norm without affine, then LARS with the rate after the momentum."""
    grid = Grid(head(normalise=True), (6.4,), lars_direction(), cosine(start=1.0, end=0.0, steps=25, warmup_steps=5))
    heads, _ = train(grid, 25, FEATURES * 3 + 1)
    start = grid.init(jax.random.key(0)).params["linear"]
    w, b = (np.asarray(start[name][0], np.float64) for name in ("kernel", "bias"))
    v, u = np.zeros_like(w), np.zeros_like(b)
    raw = FEATURES.astype(np.float64) * 3 + 1
    x = (raw - raw.mean(0)) / np.sqrt(raw.var(0) + 1e-6)
    for step in range(25):
        error = (np.exp(log_softmax(x @ w + b, axis=1)) - np.eye(CLASSES)[LABELS]) / COUNT
        gradient = x.T @ error
        v = 0.9 * v + 0.001 * np.linalg.norm(w) / np.linalg.norm(gradient) * gradient
        u = 0.9 * u + error.sum(0)
        rate = 6.4 * (step / 5 if step < 5 else 0.5 * (1 + np.cos(np.pi * (step - 5) / 20)))
        w, b = w - rate * v, b - rate * u
    np.testing.assert_allclose(heads.params["linear"]["kernel"][0], w, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(heads.params["linear"]["bias"][0], b, rtol=1e-4, atol=1e-6)
    # PyTorch's running statistics after 25 equal batches: momentum 0.1, the variance unbiased.
    mean, var = (1 - 0.9**25) * raw.mean(0), 0.9**25 + (1 - 0.9**25) * raw.var(0, ddof=1)
    np.testing.assert_allclose(heads.statistics["norm"]["mean"][0], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(heads.statistics["norm"]["var"][0], var, rtol=1e-5)
    np.testing.assert_allclose(
        grid.logits(heads, jnp.asarray(raw, jnp.float32))[0], (raw - mean) / np.sqrt(var + 1e-6) @ w + b, atol=1e-4
    )


@pytest.mark.parametrize("name", DIRECTIONS)
def test_eight_devices_are_one(name):
    direction, normalise = DIRECTIONS[name]
    grid = Grid(head(normalise=normalise), (0.1, 1.0), direction, cosine(start=1.0, end=0.0, steps=12))
    batches = [{"input": FEATURES[i : i + 32], "label": LABELS[i : i + 32]} for i in (0, 32, 64)] * 4

    def run(mesh):
        update = jax.jit(grid.update)
        batch = lambda heads, batch: update(heads, batch["input"], batch["label"])  # noqa: E731
        return fit(batch, grid.init(jax.random.key(0)), iter(batches), 32, mesh)

    one, eight = run(make_mesh("", jax.devices()[:1])), run(make_mesh("fsdp=2"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), one, eight)


@pytest.mark.parametrize("devices", [1, 8])
def test_shares(devices):
    """Batches that are not full are filled up with what counts for nothing."""
    mesh = make_mesh("", jax.devices()[:devices])
    logits = np.random.default_rng(1).normal(size=(2, COUNT, CLASSES)).astype(np.float32)
    numbers = np.arange(COUNT)
    batches = [(numbers[i : i + 20], LABELS[i : i + 20]) for i in range(0, COUNT, 20)]
    found = share_right(lambda images: jnp.asarray(logits)[:, images], batches, mesh)
    np.testing.assert_allclose(found, (logits.argmax(-1) == LABELS).mean(1), atol=1e-12)
    assert [batch.real for batch in padded_batches(batches, mesh)] == [20] * 4 + [16]
    one = hits(jnp.asarray(logits[0]), to_mesh(mesh, LABELS, COUNT))
    assert int(one) == (logits[0].argmax(-1) == LABELS).sum()


def test_an_error_of_the_data_ends_the_training():
    def broken():
        yield {"input": FEATURES[:8], "label": LABELS[:8]}
        raise InputError("image 3 is damaged")

    grid = Grid(head(), (0.1,), optax.trace(decay=0.9), constant(value=1.0))
    with pytest.raises(InputError, match="image 3"):
        fit(
            lambda heads, batch: grid.update(heads, batch["input"], batch["label"]),
            grid.init(jax.random.key(0)),
            broken(),
            8,
            make_mesh("", jax.devices()[:1]),
        )


@pytest.mark.parametrize("rates", [(), (0.0,), (0.1, -1.0), (float("nan"),), (float("inf"),)])
def test_bad_rates(rates):
    with pytest.raises(InputError, match="learning_rates is"):
        check_rates(rates)


def test_bad_lengths():
    mesh = make_mesh()
    assert total_steps(100, 8, 2, mesh) == 25
    assert total_steps(100, 8, 0.01, mesh) == 1
    for arguments, message in (
        ((100, 12, 1), "12 does not divide"),
        ((4, 8, 1), "at most"),
        ((100, 8, 0), "epochs is"),
    ):
        with pytest.raises(InputError, match=message):
            total_steps(*arguments, mesh)
