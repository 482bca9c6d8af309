"""Retrieval: average precision from its definition and by hand, the revisited protocol step by step."""

import json

import jax
import numpy as np
import pytest
from pictures import make_folder, smooth
from PIL import Image

from ssljax.cli import main
from ssljax.data.landmarks import read_landmarks
from ssljax.errors import InputError
from ssljax.evaluate.encoders import Pixels
from ssljax.evaluate.retrieval import Retrieval, Revisited, landmark_scores, retrieve, wanted
from ssljax.mesh import make_mesh
from ssljax.objectives.base import Encoder

PIXELS = Encoder(Pixels(8), {})


def definition(features, labels, query):
    """Precision at the rank of each image of the class, averaged; and the rank of the first."""
    others = [i for i in range(len(labels)) if i != query]
    others.sort(key=lambda i: -float(features[query].astype(np.float64) @ features[i]))
    hits, precisions = 0, []
    for rank, other in enumerate(others, 1):
        if labels[other] == labels[query]:
            hits += 1
            precisions.append(hits / rank)
    return (np.mean(precisions), round(1 / precisions[0]) - 1) if precisions else None


@pytest.mark.parametrize("devices", [1, 8])
def test_equals_the_definition(devices):
    random = np.random.default_rng(0)
    labels = np.append(random.integers(3, 40, 301), 99)  # 99 is alone
    features = random.normal(size=(302, 8)) + np.random.default_rng(1).normal(size=(100, 8))[labels]
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    expected = [definition(features, labels, query) for query in range(302)]
    precisions, firsts = retrieve(features, labels, make_mesh("", jax.devices()[:devices]))
    expected = np.array([pair for pair in expected if pair is not None])
    np.testing.assert_allclose(precisions, expected[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(firsts, expected[:, 1])
    assert 0.2 < precisions.mean() < 0.9


def test_by_hand():
    """On a line of angles: from each image the others by distance."""
    angles = np.array([0.0, 0.1, 0.3, 0.6])
    features = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    precisions, firsts = retrieve(features, np.array([7, 5, 7, 7]), make_mesh())
    # 0: 1, 2, 3 = no, yes, yes; 2: 1, 0, 3 = no, yes, yes (0.2, 0.3, 0.3); 3: 2, 1, 0 = yes, no, yes
    np.testing.assert_allclose(precisions[[0, 2]], [(1 / 2 + 2 / 3) / 2, (1 + 2 / 3) / 2], rtol=1e-6)
    np.testing.assert_array_equal(firsts, [1, 1, 0])


def test_images_of_one_colour_find_each_other(tmp_path):
    make_folder(tmp_path / "raw", {"a": 7, "b": 6, "c": 8})
    assert main(["prepare", "images", str(tmp_path / "raw"), "--output", str(tmp_path / "set")]) == 0
    result = Retrieval(data=str(tmp_path / "set"), size=16, batch_size=4)(PIXELS, make_mesh())
    assert list(result.metrics) == ["retrieval_map", *(f"retrieval_recall_{k}" for k in (1, 5, 10))]
    assert result.metrics["retrieval_map"] > 0.9 and result.metrics["retrieval_recall_10"] == 1.0
    assert result.details == {"without_others": 0}


def benchmark(order, positive, junk):
    """The released protocol, one rank after the other."""
    rank, hits, area, found = 0, 0, 0.0, []
    for image in order:
        if image in junk:
            continue
        if image in positive:
            before = 1.0 if rank == 0 else hits / rank
            hits += 1
            area += (before + hits / (rank + 1)) / 2 / len(positive)
            found.append(rank + 1)
        rank += 1
    return area, *(sum(r <= min(max(found), k) for r in found) / min(max(found), k) for k in (1, 5, 10))


@pytest.mark.parametrize("seed", range(5))
def test_landmarks_equal_the_benchmark(seed):
    random = np.random.default_rng(seed)
    order, numbers = random.permutation(60), random.permutation(60)
    query = {"easy": numbers[:6].tolist(), "hard": numbers[6:9].tolist(), "junk": numbers[9:20].tolist()}
    for level in ("easy", "medium", "hard"):
        positive, junk = wanted(query, level)
        assert landmark_scores(order, positive, junk) == pytest.approx(benchmark(order, positive, junk), rel=1e-12)
    assert sorted(wanted(query, "medium")[0]) == sorted(numbers[:9])
    assert sorted(wanted(query, "hard")[1]) == sorted([*numbers[:6], *numbers[9:20]])
    assert landmark_scores(order, [], [1]) is None


def landmarks(folder, **change):
    """Query 0 shows the middle of image 1, which is easy; image 0 is hard, image 2 junk."""
    (folder / "jpg").mkdir(parents=True)
    for i in range(4):
        Image.fromarray(smooth(i, 60, 80)).save(folder / "jpg" / f"i{i}.jpg", quality=95)
    canvas = np.full((100, 120, 3), 128, np.uint8)
    canvas[20:80, 10:90] = smooth(1, 60, 80)
    Image.fromarray(canvas).save(folder / "jpg" / "q.jpg", quality=95)
    truth = [dict(bbx=[10, 20, 90, 80], easy=[1], hard=[0], junk=[2])]
    record = dict(imlist=[f"i{i}" for i in range(4)], qimlist=["q"], gnd=truth) | change
    (folder / "gnd.json").write_text(json.dumps(record))
    return str(folder / "gnd.json")


def test_revisited(tmp_path):
    for mesh in (make_mesh("", jax.devices()[:1]), make_mesh("tensor=2")):
        data = landmarks(tmp_path / str(mesh.size))
        result = Revisited(data=data, size=32, batch_size=3)(PIXELS, mesh)
        assert result.metrics["revisited_map_easy"] == 1.0  # what it shows comes first
        assert set(result.metrics) == {f"revisited_map_{level}" for level in ("easy", "medium", "hard")}
        assert result.details["easy"] == dict(precision_1=1.0, precision_5=1.0, precision_10=1.0)
        assert 0.5 <= result.metrics["revisited_map_medium"] <= 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(gnd=[]), "names 1 queries and the truth of 0"),
        (dict(gnd=[dict(bbx=[1, 2, 3, 4], easy=[4], hard=[], junk=[])]), "names image number 4, but there are 4"),
        (dict(gnd=[dict(bbx=[1, 2, 3], easy=[1], hard=[], junk=[])]), "is no ground truth"),
        (dict(gnd=[dict(easy=[1])]), "is no ground truth"),
        (dict(imlist=["i0", "i1", "i2", "x"]), "x.jpg is missing, and so are 0 more"),
    ],
    ids=str,
)
def test_bad_truth_is_named(tmp_path, change, message):
    file = landmarks(tmp_path / "a", **change)
    with pytest.raises(InputError, match=message):
        read_landmarks(file)


def test_bad_input(tmp_path):
    (tmp_path / "gnd.pkl").write_bytes(b"")
    with pytest.raises(InputError, match="gnd.pkl is no JSON file"):
        Revisited(data=str(tmp_path / "gnd.pkl"), size=32)
    with pytest.raises(InputError, match="needs labelled images"):
        Retrieval(data="", size=32)
    with pytest.raises(InputError, match="pool is 'x'"):
        Retrieval(data="somewhere", size=32, pool="x")
    outside = landmarks(tmp_path / "a", gnd=[dict(bbx=[10, 20, 900, 80], easy=[1], hard=[0], junk=[])])
    with pytest.raises(InputError, match="q.jpg has the box"):
        Revisited(data=outside, size=32)(PIXELS, make_mesh())
    nothing = landmarks(tmp_path / "b", gnd=[dict(bbx=[10, 20, 90, 80], easy=[1], hard=[], junk=[])])
    with pytest.raises(InputError, match="no query with hard images"):
        Revisited(data=nothing, size=32)(PIXELS, make_mesh())
    with pytest.raises(InputError, match="No class has two images"):
        retrieve(np.eye(3, dtype=np.float32), np.arange(3), make_mesh())
