"""Clusters stay together in the plane, and the picture names them."""

import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from ssljax.errors import InputError
from ssljax.report.embedding import COLOURS, draw_embedding, embed


def clusters(count, classes):
    random = np.random.default_rng(0)
    labels = random.permutation(np.arange(count) % classes)
    return (2 * random.normal(size=(classes, 16))[labels] + random.normal(size=(count, 16))).astype(np.float32), labels


def colours_in(path):
    with Image.open(path) as image:
        return set(map(tuple, np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()))


def drawn(colour, alpha=1.0):
    """The colour on white."""
    return tuple(round(255 * (alpha * c + 1 - alpha)) for c in to_rgb(colour))


def test_clusters_stay_together_and_the_seed_decides():
    features, labels = clusters(120, 4)
    points = embed(features, perplexity=15)
    assert KNeighborsClassifier(5).fit(points, labels).score(points, labels) > 0.98
    np.testing.assert_array_equal(points, embed(2 * features, perplexity=15))


@pytest.mark.parametrize("count", [5, 30])
def test_few_images_need_no_perplexity(count):
    features, _ = clusters(count, 2)
    np.testing.assert_array_equal(embed(features), embed(features, perplexity=min(30, (count - 1) / 3)))


def test_ten_classes_have_a_colour_each(tmp_path):
    points = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    path = tmp_path / "points.png"
    draw_embedding(points, path, labels=np.arange(200) % 10, classes=[f"class {i}" for i in range(10)], title="All")
    assert {drawn(colour) for colour in COLOURS} <= colours_in(path)
    draw_embedding(points, path)
    assert drawn(COLOURS[1]) not in colours_in(path)


def test_the_largest_of_many_classes_are_named(tmp_path):
    labels = np.concatenate([np.arange(100), np.arange(20), np.arange(5)])
    points = np.random.default_rng(0).normal(size=(125, 2)).astype(np.float32)
    draw_embedding(points, tmp_path / "points.png", labels=labels, classes=[f"class {i}" for i in range(100)])
    assert {drawn("#d9dde2"), *(drawn(colour) for colour in COLOURS)} <= colours_in(tmp_path / "points.png")


def test_bad_requests_are_told(monkeypatch):
    features, _ = clusters(20, 2)
    with pytest.raises(InputError, match="there are 20 images"):
        embed(features, perplexity=20)
    with pytest.raises(InputError, match="There are 4 images .* at least 5"):
        embed(features[:4])
    with pytest.raises(InputError, match="one of tsne, umap"):
        embed(features, method="pca")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match="pip install umap-learn"):
        embed(features, method="umap", perplexity=5)
