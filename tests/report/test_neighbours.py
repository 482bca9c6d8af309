"""Neighbours against scikit-learn's, and their picture."""

import jax
import numpy as np
import pytest
from pictures import make_folder
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from data_prep.images import main as prepare
from ssljax.errors import InputError
from ssljax.evaluate.encoders import Pixels, pooled
from ssljax.objectives.base import Encoder
from ssljax.report.neighbours import RIGHT, WRONG, draw_neighbours, encoded, nearest, show_neighbours
from ssljax.report.subject import Subject

PIXELS = Encoder(Pixels(4), {})


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flowers")
    source = make_folder(folder / "raw", {"red": 5, "green": 5, "blue": 5}, side=24)
    assert prepare([str(source), "--output", str(folder / "set")]) == 0
    return folder / "set"


def test_nearest_equals_scikit_learn():
    features = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    distances, expected = NearestNeighbors(n_neighbors=6, metric="cosine").fit(features).kneighbors(features)
    found, cosines = nearest(features, features, 5, exclude=np.arange(40))
    np.testing.assert_array_equal(found, expected[:, 1:])
    np.testing.assert_allclose(cosines, 1 - distances[:, 1:], atol=1e-6)


def test_duplicates_find_each_other():
    features = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    found, cosines = nearest(np.concatenate([features, features]), np.concatenate([features, 2 * features]), 1)
    np.testing.assert_array_equal(found[:, 0] % 10, np.tile(np.arange(10), 2))
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
    twice = np.concatenate([features, 3 * features])
    found, _ = nearest(twice, twice, 1, exclude=np.arange(20))
    np.testing.assert_array_equal(found[:, 0], (np.arange(20) + 10) % 20)


def test_features_are_those_of_the_encoder_whatever_the_batch():
    images = np.random.default_rng(0).integers(0, 256, (130, 8, 8, 3), dtype=np.uint8)
    expected = jax.device_get(pooled(PIXELS, images))
    np.testing.assert_allclose(encoded(PIXELS, iter(images)), expected, atol=1e-6)


def test_frames_say_whether_labels_agree(tmp_path):
    grey = np.full((40, 40, 3), 128, np.uint8)
    path = tmp_path / "sheet.png"
    labels = [["cat", "cat", "a dog with a name that is far too long for its place"]]
    shown = [[grey] * 3], np.array([[0.9, 0.8, 0.7]]), path
    draw_neighbours([grey], *shown, query_labels=["cat"], neighbour_labels=labels)
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    frame = 104**2 - 96**2
    assert [(pixels == colour).all(-1).sum() for colour in (RIGHT, WRONG)] == [2 * frame, frame]
    draw_neighbours([grey], *shown)
    with Image.open(path) as sheet:
        assert not (np.asarray(sheet) == RIGHT).all(-1).any()


def test_a_sets_images_find_their_like(flowers, tmp_path):
    subject = Subject(PIXELS, 8, "pixels", tmp_path)
    path = show_neighbours(subject, None, data=flowers, count=3, neighbours=4)
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    agree, differ = ((pixels == colour).all(-1).sum() for colour in (RIGHT, WRONG))
    assert agree + differ == 3 * 4 * (104**2 - 96**2)
    assert agree > 2 * differ  # classes have colours of their own
    query = tmp_path / "query.png"
    Image.fromarray(np.full((30, 20, 3), [250, 20, 20], np.uint8)).save(query)
    assert show_neighbours(subject, tmp_path / "other.png", inputs=[query], data=flowers).exists()


def test_too_few_images_are_told(flowers, tmp_path):
    subject = Subject(PIXELS, 8, "pixels", tmp_path)
    with pytest.raises(InputError, match="15 images to search"):
        show_neighbours(subject, None, data=flowers, neighbours=15)
    with pytest.raises(InputError, match="--data"):
        show_neighbours(subject, None)
