"""J and F against the definitions, pixel by pixel, and numbers of the official toolkit."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from ssljax.evaluate.davis_metrics import boundary, contour, mean_scores, region, sequence_scores, statistics

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "davis.npz")
REAL = Path(__file__).parents[3] / "shared" / "data" / "davis2016_val" / "Annotations" / "480p"


def edge_pixels(mask):
    """Pixels that differ from one of their three neighbours towards the lower right, those outside left out."""
    height, width = mask.shape
    found = []
    for y in range(height):
        for x in range(width):
            others = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if any(v < height and u < width and mask[v, u] != mask[y, x] for v, u in others):
                found.append((y, x))
    return np.array(found).reshape(-1, 2)


def f_by_distances(annotated, predicted):
    """Each edge pixel's distance to the nearest one of the other mask, all pairs compared."""
    near = math.ceil(0.008 * math.sqrt(annotated.shape[0] ** 2 + annotated.shape[1] ** 2))
    true, found = edge_pixels(annotated), edge_pixels(predicted)
    if not len(true) or not len(found):
        return float(len(true) == len(found))
    squares = ((true[:, None] - found[None, :]) ** 2).sum(-1)
    recall, precision = (np.mean(squares.min(axis) <= near**2) for axis in (1, 0))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def blob(random, shape=(70, 110)):
    values = gaussian_filter(random.normal(size=shape), 6)
    return values > np.quantile(values, random.uniform(0.3, 0.95))


def pairs():
    random = np.random.default_rng(0)
    nothing, all_of_it = np.zeros((70, 110), bool), np.ones((70, 110), bool)
    masks = [(blob(random), blob(random)) for _ in range(6)]
    masks += [(a, a ^ (blob(random) & blob(random))) for a, _ in masks]
    masks += [(random.random((70, 110)) < 0.02, random.random((70, 110)) < 0.02), (masks[0][0], masks[0][0])]
    return [*masks, (nothing, nothing), (nothing, masks[0][0]), (masks[0][0], nothing), (all_of_it, masks[0][0])]


@pytest.mark.parametrize(("annotated", "predicted"), pairs())
def test_equal_the_definitions(annotated, predicted):
    assert boundary(annotated, predicted) == pytest.approx(f_by_distances(annotated, predicted), abs=1e-12)
    ours, theirs = (set(zip(*np.nonzero(mask), strict=True)) for mask in (predicted, annotated))
    expected = len(ours & theirs) / len(ours | theirs) if ours | theirs else 1.0
    assert region(annotated, predicted) == pytest.approx(expected, abs=1e-12)


@pytest.mark.skipif(not REAL.is_dir(), reason="DAVIS-2016 val is not beside the clone")
def test_equal_the_definitions_on_real_masks():
    for name, first, second in (("bmx-trees", 10, 14), ("kite-surf", 20, 21), ("blackswan", 3, 40)):
        one, two = (np.asarray(Image.open(REAL / name / f"{i:05d}.png")) > 0 for i in (first, second))
        assert boundary(one, two) == pytest.approx(f_by_distances(one, two), abs=1e-12)
        assert 0.1 < region(one, two) < boundary(one, one) == 1.0


def test_equal_the_official_toolkit():
    truth, guess = (
        np.unpackbits(GOLDEN[name], axis=-1, count=int(GOLDEN["mask_width"])).astype(bool)
        for name in ("truth", "guess")
    )
    j = np.array([region(*pair) for pair in zip(truth, guess, strict=True)])
    f = np.array([boundary(*pair) for pair in zip(truth, guess, strict=True)])
    np.testing.assert_allclose(j, GOLDEN["j"], atol=1e-12)
    np.testing.assert_allclose(f, GOLDEN["f"], atol=1e-12)
    found = [statistics(scores) for scores in (f, j, j[:13], j[:3], j[:1])]
    np.testing.assert_allclose(found, GOLDEN["statistics"], atol=1e-12)


def test_the_boundary_touches_no_border():
    """The frame of the image is not a boundary: of what leaves it, nothing is counted there."""
    assert not contour(np.ones((9, 9), bool)).any()
    half = np.zeros((9, 9), bool)
    half[:, 4:] = True
    assert np.nonzero(contour(half).any(0))[0].tolist() == [3]


def test_objects_and_frames_count_as_they_should():
    """The first and last frame never, later objects never, and an object that is not predicted as nothing."""
    random = np.random.default_rng(1)
    annotated = np.zeros((6, 40, 60), np.uint8)
    for t in range(6):
        annotated[t, 5:20, 5 + t : 25 + t], annotated[t, 25:35, 30:50] = 1, 2
    annotated[4, 36:, :10] = 3  # the first mask does not have it
    predicted = np.where(annotated == 1, 1, 0).astype(np.uint8)
    predicted[0], predicted[-1] = random.integers(0, 3, (2, 40, 60))
    scores = sequence_scores(annotated, predicted)
    assert list(scores) == [1, 2]
    assert scores[1].j == scores[1].f == (1.0, 1.0, 0.0)
    assert scores[2].j == scores[2].f == (0.0, 0.0, 0.0)
    means = mean_scores(list(scores.values()))
    assert means == {f"davis_{name}": pytest.approx(0.5) for name in ("j_and_f", "j", "j_recall", "f", "f_recall")} | {
        "davis_j_decay": 0.0,
        "davis_f_decay": 0.0,
    }
