"""k-NN against the formula in NumPy, on one device and on eight."""

import jax
import numpy as np
import pytest

from ssljax.errors import InputError
from ssljax.evaluate.knn import knn
from ssljax.mesh import make_mesh

CLASSES = 7


def formula(train, train_labels, test, test_labels, k, temperature=0.07):
    """Wu et al. 2018, section 3.4, one image after the other in float64."""
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    cosines = unit(test.astype(np.float64)) @ unit(train.astype(np.float64)).T
    right = 0
    for row, label in zip(cosines, test_labels, strict=True):
        nearest = np.argsort(-row, kind="stable")[:k]
        votes = np.zeros(CLASSES)
        np.add.at(votes, train_labels[nearest], np.exp(row[nearest] / temperature))
        right += int(votes.argmax() == label)
    return right / len(test)


def data(seed, count):
    """Noisy images [n, 4, 4, 3] around a mean for each class: k-NN gets some of them right."""
    random = np.random.default_rng(seed)
    means = np.random.default_rng(99).uniform(60, 190, (CLASSES, 4, 4, 3))
    labels = random.integers(0, CLASSES, count)
    return np.clip(means[labels] + random.normal(0, 90, (count, 4, 4, 3)), 0, 255).astype(np.uint8), labels


def batches(images, labels, size):
    return [(images[i : i + size], labels[i : i + size]) for i in range(0, len(images), size)]


PROJECTION = np.random.default_rng(5).normal(size=(48, 16)).astype(np.float32)


@jax.jit
def encode(images):
    return images.reshape(images.shape[0], -1) / np.float32(255) @ PROJECTION


TRAIN, TEST = data(0, 530), data(1, 117)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(("size", "block"), [(64, 128), (50, 4096), (530, 1)])
def test_equals_the_formula(devices, size, block):
    mesh = make_mesh("fsdp=2,tensor=2" if devices == 8 else "", jax.devices()[:devices])
    neighbours = (1, 10, 20, 200)
    found = knn(encode, batches(*TRAIN, size), batches(*TEST, size), mesh, neighbours=neighbours, block=block)
    features = [np.asarray(encode(images)) for images in (TRAIN[0], TEST[0])]
    expected = {f"knn_{k}": formula(features[0], TRAIN[1], features[1], TEST[1], k) for k in neighbours}
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0.3 < expected["knn_20"] < 0.95  # neither hopeless nor trivial


def test_fewer_images_than_neighbours():
    mesh = make_mesh()
    found = knn(encode, batches(TRAIN[0][:30], TRAIN[1][:30], 20), batches(*TEST, 64), mesh, neighbours=(30, 200))
    assert found["knn_30"] == found["knn_200"]


def test_temperature_and_scale():
    """Of features only the direction counts; a higher temperature makes far neighbours count for more."""
    mesh, more = make_mesh(), dict(neighbours=(20,))
    one = knn(encode, batches(*TRAIN, 64), batches(*TEST, 64), mesh, **more)
    scaled = knn(lambda x: 1000 * encode(x), batches(*TRAIN, 64), batches(*TEST, 64), mesh, **more)
    assert one == scaled
    flat = knn(encode, batches(*TRAIN, 64), batches(*TEST, 64), mesh, temperature=1.0, **more)
    features = [np.asarray(encode(images)) for images in (TRAIN[0], TEST[0])]
    assert flat["knn_20"] == formula(features[0], TRAIN[1], features[1], TEST[1], 20, temperature=1.0)


def test_itself_is_the_nearest():
    assert knn(encode, batches(*TRAIN, 64), batches(*TRAIN, 64), make_mesh(), neighbours=(1,)) == {"knn_1": 1.0}


@pytest.mark.parametrize(
    ("train", "test", "neighbours", "message"),
    [
        ([], batches(*TEST, 64), (1,), "no training images"),
        (batches(*TRAIN, 64), [], (1,), "no test images"),
        (batches(*TRAIN, 64), batches(*TEST, 64), (0, 1), "neighbours is"),
        (batches(*TRAIN, 64), batches(*TEST, 64), (), "neighbours is"),
    ],
)
def test_bad_input(train, test, neighbours, message):
    with pytest.raises(InputError, match=message):
        knn(encode, train, test, make_mesh(), neighbours=neighbours)
