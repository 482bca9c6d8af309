"""k-NN and the linear probe against scikit-learn, on its handwritten digits and on random features."""

import functools

import jax
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from ssljax.evaluate.heads import Grid, share_right
from ssljax.evaluate.knn import knn
from ssljax.evaluate.linear import LinearHead
from ssljax.mesh import make_mesh
from ssljax.models.pure import Pure
from ssljax.optim import constant

TRAINING = 1200


def digits():
    """1797 images of 8 x 8 pixels, ten classes, in the order of several writers."""
    features, labels = load_digits(return_X_y=True)
    return features.astype(np.float32) / 16, labels.astype(np.int32)


def noise():
    """Random features around ten means: some errors are left whatever the classifier."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 1797).astype(np.int32)
    means = random.normal(size=(10, 24))
    return (means[labels] + 2 * random.normal(size=(1797, 24))).astype(np.float32), labels


DATA = {"digits": digits, "noise": noise}


def parts(name):
    features, labels = DATA[name]()
    return (features[:TRAINING], labels[:TRAINING]), (features[TRAINING:], labels[TRAINING:])


def batches(features, labels, size):
    return [(features[i : i + size], labels[i : i + size]) for i in range(0, len(features), size)]


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("devices", [1, 8])
def test_knn(name, devices):
    """The votes are weighted as Wu et al. weight them; every number of neighbours, each image of the test set."""
    train, test = parts(name)
    mesh = make_mesh("tensor=2" if devices > 1 else "", jax.devices()[:devices])
    found = knn(jax.numpy.asarray, batches(*train, 96), batches(*test, 64), mesh)
    for metric, accuracy in found.items():
        weights = lambda distances: np.exp((1 - distances) / 0.07)  # noqa: E731
        reference = KNeighborsClassifier(
            int(metric.removeprefix("knn_")), weights=weights, metric="cosine", algorithm="brute"
        )
        expected = reference.fit(train[0].astype(np.float64), train[1]).score(test[0].astype(np.float64), test[1])
        assert accuracy == pytest.approx(expected, abs=1e-12)
        assert 0.3 < expected < 0.99


@pytest.mark.parametrize("name", DATA)
def test_linear(name):
    """With weight decay the optimum is unique: SGD with momentum and L-BFGS find it, whatever the learning rate."""
    train, test = parts(name)
    decay = 0.02
    reference = LogisticRegression(C=1 / (decay * TRAINING), tol=1e-12, max_iter=10_000)
    reference.fit(train[0].astype(np.float64), train[1])
    width = train[0].shape[1]
    kernels = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)  # noqa: E731
    direction = optax.chain(optax.add_decayed_weights(decay, mask=kernels), optax.trace(decay=0.9))
    head = Pure(functools.partial(LinearHead, width=width, classes=10))
    grid = Grid(head, (0.05, 0.15), direction, constant(value=1.0))

    @jax.jit
    def fitted(heads):
        return jax.lax.fori_loop(
            0, 12000, lambda _, heads: grid.update(heads, *map(jax.numpy.asarray, train))[0], heads
        )

    heads = fitted(grid.init(jax.random.key(0)))
    logits = np.asarray(grid.logits(heads, jax.numpy.asarray(test[0])))
    expected = reference.decision_function(test[0].astype(np.float64))
    for i in range(2):
        centred = logits[i] - logits[i].mean(axis=1, keepdims=True)  # a shift of all logits changes nothing
        np.testing.assert_allclose(centred, expected - expected.mean(axis=1, keepdims=True), atol=2e-4)
    shares = share_right(lambda features: grid.logits(heads, features), batches(*test, 64), make_mesh())
    assert shares == pytest.approx([reference.score(*test)] * 2, abs=1e-12)
