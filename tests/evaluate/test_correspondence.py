"""Correspondence: matching against SciPy's interpolation and a search by hand, PCK by hand, SPair-71k's layout."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from ssljax.errors import InputError
from ssljax.evaluate.correspondence import Correspondence, match, pck
from ssljax.evaluate.encoders import Pixels
from ssljax.mesh import make_mesh
from ssljax.objectives.base import Encoder

PIXELS = Encoder(Pixels(8), {})


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("side", [1, 5])
def test_matches_equal_a_search_by_hand(side):
    random = np.random.default_rng(0)
    source, target = (unit(random.normal(size=(side, side, 6))) for _ in range(2))
    points = random.uniform(0, [79, 49], (20, 2))
    points[:2] = [[0, 0], [79, 49]]
    found = match(source, target, points, (50, 80), (30, 60))
    for point, where in zip(points, found, strict=True):
        at = np.clip((point + 0.5) * [side / 80, side / 50] - 0.5, 0, side - 1)
        feature = [ndimage.map_coordinates(source[..., c], [[at[1]], [at[0]]], order=1)[0] for c in range(6)]
        row, column = np.unravel_index(np.argmax(target @ np.array(feature)), (side, side))
        np.testing.assert_allclose(where, [(column + 0.5) * 60 / side - 0.5, (row + 0.5) * 30 / side - 0.5])


def test_pck_by_hand():
    assert pck([np.array([True, False]), np.array([True, True, True, False])]) == ((0.5 + 0.75) / 2, 4 / 6)


def pair(folder, name="0-a-b:cat", **change):
    record = dict(
        src_imname="a.jpg", trg_imname="b.jpg", category="cat", src_imsize=[64, 48, 3], trg_imsize=[80, 40, 3],
        src_kps=[[12, 9], [50, 30]], trg_kps=[[14, 6], [63, 24]], trg_bndbox=[5, 3, 75, 39],
    )  # fmt: skip
    record |= change
    file = folder / "PairAnnotation" / "test" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))
    return str(file.parent)


@pytest.fixture
def folder(tmp_path):
    """Both images show the same smooth colours, stretched."""
    colours = np.random.default_rng(4).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    (tmp_path / "JPEGImages" / "cat").mkdir(parents=True)
    for name, shape in (("a", (64, 48)), ("b", (80, 40))):
        image = Image.fromarray(colours).resize(shape, Image.Resampling.BILINEAR)
        image.save(tmp_path / "JPEGImages" / "cat" / f"{name}.jpg", quality=98)
    return tmp_path


def test_pck_of_points_that_are_and_are_not_where_they_seem(folder):
    """The target is the source stretched by 80/64 and 40/48; the threshold is a tenth of the box's long side, 7 px."""
    points = np.array([[12, 9], [50, 30], [30, 40]])
    there = (points + 0.5) * [80 / 64, 40 / 48] - 0.5
    away = there + np.array([[0, 0], [0, 0], [14, 0]])
    data = pair(folder, src_kps=points.tolist(), trg_kps=away.tolist())
    pair(folder, "1-a-b:cat", src_kps=points[:1].tolist(), trg_kps=there[:1].tolist())
    for mesh in (make_mesh("", jax.devices()[:1]), make_mesh("fsdp=2,tensor=2")):
        result = Correspondence(data=data, size=64, batch_size=3)(PIXELS, mesh)
        assert result.metrics == {"pck_image": pytest.approx((2 / 3 + 1) / 2), "pck_point": 3 / 4}
        assert result.details["categories"] == {"cat": {"image": pytest.approx(5 / 6), "point": 3 / 4}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(src_kps=[[12, 9], [65, 30]]), r"has the point \(65, 30\), outside its image of 64x48"),
        (dict(trg_kps=[[12, -1], [5, 30]]), r"has the point \(12, -1\), outside its image of 80x40"),
        (dict(src_kps=[[12, 9]]), "has 1 points in one image and 2 in the other"),
        (dict(src_kps=[], trg_kps=[]), "has 0 points"),
        (dict(trg_bndbox=[5, 5, 5, 5]), "a target box without area"),
        (dict(trg_bndbox=None), "is no annotation of SPair-71k"),
        (dict(src_kps="x"), "is no annotation of SPair-71k"),
        (dict(trg_imname="c.jpg"), "c.jpg is missing, which"),
    ],
    ids=str,
)
def test_bad_annotations_are_named(folder, change, message):
    with pytest.raises(InputError, match=message):
        Correspondence(data=pair(folder, **change), size=64)


def test_bad_input(folder):
    with pytest.raises(InputError, match="needs pairs of images"):
        Correspondence(data="", size=64)
    with pytest.raises(InputError, match="has no pairs"):
        Correspondence(data=str(folder), size=64)
    with pytest.raises(InputError, match="give at least 1"):
        Correspondence(data=pair(folder), size=0)
    data = pair(folder, src_imsize=[65, 48, 3])
    with pytest.raises(InputError, match="a.jpg has 64x48 pixels, but its annotations say 65x48"):
        Correspondence(data=data, size=64)(PIXELS, make_mesh())
