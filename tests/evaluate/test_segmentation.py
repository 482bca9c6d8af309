"""In-context segmentation against the paper's procedure in NumPy and SciPy, on one device and on eight."""

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from ssljax.data.masks import Segmented
from ssljax.errors import InputError
from ssljax.evaluate.masks import intersection_over_union
from ssljax.evaluate.segmentation import _filled, patch_shares, segment_in_context
from ssljax.mesh import make_mesh

CLASSES, SIZE, SIDE = 4, 16, 4


def make(folder, count, seed):
    """Images of blocks, each class a colour with noise, ignored here and there."""
    random = np.random.default_rng(seed)
    colours = np.random.default_rng(99).integers(40, 200, (CLASSES, 3))
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        mask = np.kron(random.integers(0, CLASSES - 1 + (i == 0), (5, 5)), np.ones((4, 4), int))[:SIZE, :SIZE]
        mask = np.roll(mask, i, axis=(0, 1))
        image = np.clip(colours[mask] + random.normal(0, 60, (SIZE, SIZE, 3)), 0, 255)
        mask[random.random(mask.shape) < 0.05] = 255
        if i == 1:
            mask[:4] = 255  # patches without any label
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{i:02d}.png")
        Image.fromarray(mask.astype(np.uint8)).save(folder / "masks" / f"{i:02d}.png")
    return folder / "images"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmentation")
    return [
        Segmented(make(folder / name, count, seed), classes=CLASSES, size=SIZE, batch_size=8)
        for name, count, seed in (("train", 21, 0), ("test", 13, 1))
    ]


@jax.jit
def encode(images):
    """The mean colour of each patch, centred."""
    pixels = images.astype(np.float32).reshape(-1, SIDE, SIZE // SIDE, SIDE, SIZE // SIDE, 3)
    return (pixels.mean((2, 4)) / np.float32(255) - np.float32(0.5)).reshape(-1, SIDE**2, 3)


def joined(data):
    images, masks = zip(*data, strict=True)
    return np.concatenate(images), np.concatenate(masks)


def patches_of(masks):
    """[b, n, pixels of a patch]."""
    p = SIZE // SIDE
    return masks.reshape(-1, SIDE, p, SIDE, p).swapaxes(2, 3).reshape(len(masks), SIDE**2, p * p)


def upsampled(grid):
    """Bilinear, pixel centres at half-integers, edges clamped: SciPy's linear spline with nearest edges."""
    at = np.clip((np.arange(SIZE) + 0.5) * SIDE / SIZE - 0.5, 0, SIDE - 1)
    where = np.meshgrid(at, at, indexing="ij")
    return np.stack([ndimage.map_coordinates(channel, where, order=1) for channel in np.moveaxis(grid, -1, 0)], -1)


def formula(train, test, k, temperature):
    """All patches that have a label are in the memory; one patch after the other, float64."""
    images, masks = joined(train)
    features = np.asarray(encode(images), np.float64).reshape(-1, 3)
    pixels = patches_of(masks).reshape(len(features), -1)
    labelled = (pixels >= 0).any(1)
    memory = features[labelled] / np.linalg.norm(features[labelled], axis=1, keepdims=True)
    labels = np.stack([np.bincount(row[row >= 0], minlength=CLASSES) / (row >= 0).sum() for row in pixels[labelled]])
    confusion = np.zeros((CLASSES, CLASSES), np.int64)
    for image, mask in zip(*joined(test), strict=True):
        scores = []
        for query in np.asarray(encode(image[None]), np.float64)[0]:
            cosines = memory @ (query / np.linalg.norm(query))
            nearest = np.argsort(-cosines)[:k]
            weights = np.exp((cosines[nearest] - cosines.max()) / temperature)
            scores.append(weights @ labels[nearest] / weights.sum())
        predicted = upsampled(np.reshape(scores, (SIDE, SIDE, CLASSES))).argmax(-1)
        np.add.at(confusion, (mask[mask >= 0], predicted[mask >= 0]), 1)
    return confusion


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(("k", "temperature"), [(3, 0.02), (30, 0.02), (1000, 0.5)])
def test_equals_the_procedure_with_all_patches(data, devices, k, temperature):
    train, test = data
    mesh = make_mesh("fsdp=2,tensor=2" if devices == 8 else "", jax.devices()[:devices])
    everything = len(train) * SIDE**2
    found = segment_in_context(encode, train, test, mesh, memory=everything, neighbours=k, temperature=temperature)
    expected = formula(train, test, k, temperature)
    assert found.sum() == expected.sum() == (joined(test)[1] >= 0).sum()
    assert np.abs(found - expected).sum() <= 4  # of 3,100 pixels: what rounding decides
    assert 0.3 < intersection_over_union(found)[0] < 0.95  # neither hopeless nor trivial


def test_a_smaller_memory_does_not_depend_on_the_devices_or_batches(data):
    train, test = data
    more = dict(memory=21 * 5, neighbours=3)
    one = segment_in_context(encode, train, test, make_mesh("", jax.devices()[:1]), **more)
    eight = segment_in_context(encode, train, test, make_mesh(), **more)
    np.testing.assert_array_equal(one, eight)
    other = segment_in_context(encode, train, test, make_mesh(), **more, seed=1)
    assert (one != other).any()


def test_memory_and_neighbours_end_where_the_patches_do(data):
    train, test = data
    mesh = make_mesh("", jax.devices()[:1])
    with jax.set_mesh(mesh):
        bank = _filled(encode, train, mesh, 10**9, 0)
    held = int(bank.used.sum())
    assert len(train) * SIDE**2 >= held and bank.used.shape == (1, 3 * 8 * SIDE**2)  # three batches of 8 images
    all_of_them, more = (
        segment_in_context(encode, train, test, mesh, memory=10**9, neighbours=k, temperature=0.5)
        for k in (held, 10**9)  # the larger number would not fit into memory
    )
    np.testing.assert_array_equal(all_of_them, more)


def test_rare_classes_are_kept(data):
    """By the paper's rule: the expected share of patches, drawn 4,000 times in NumPy, and what the memory holds."""
    train, _ = data
    with jax.set_mesh(make_mesh()):
        banks = [_filled(encode, train, make_mesh(), 3, seed) for seed in range(60)]
    held = np.mean([np.asarray(bank.labels)[np.asarray(bank.used)].mean(0) for bank in banks], axis=0)
    random, drawn = np.random.default_rng(0), []
    for pixels in patches_of(joined(train)[1]):
        counts = np.stack([(pixels == label).sum(1) for label in range(CLASSES)], 1)
        scores = (counts > 0) @ (counts > 0).sum(0)
        usable = np.flatnonzero(scores)
        order = np.argsort(random.random((4000, len(usable))) * scores[usable], axis=1)[:, :3]
        shares = counts[usable] / counts[usable].sum(1, keepdims=True)
        drawn.append(shares[order].mean((0, 1)))
    assert held == pytest.approx(np.mean(drawn, axis=0), abs=0.01)


def test_patch_shares_by_hand():
    mask = np.array([[[0, 0, 1, 1], [0, -1, 1, 2], [2, 2, -1, -1], [2, 2, -1, -1]]], np.int32)
    expected = [[[0.75, 0, 0], [0, 0.75, 0.25], [0, 0, 1], [0, 0, 0]]]
    np.testing.assert_array_equal(patch_shares(mask, 2, 3), expected)


def test_mean_iou_by_hand():
    """Class 0: 3 / (4 + 1); class 1: 1 / 4; class 2 only predicted: 0; class 3 nowhere: left out."""
    confusion = np.array([[3, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    mean, shares = intersection_over_union(confusion)
    assert shares == [3 / 5, 1 / 4, 0.0, None]
    assert mean == pytest.approx((0.6 + 0.25) / 3)
    with pytest.raises(InputError, match="No pixel of the test masks"):
        intersection_over_union(np.zeros((2, 2)))


def test_bad_input(data, tmp_path):
    train, test = data
    for wrong in (
        dict(memory=0),
        dict(memory=9, neighbours=0),
        dict(memory=9, temperature=0.0),
        dict(memory=9, temperature=np.nan),
    ):
        with pytest.raises(InputError, match="give numbers above 0"):
            segment_in_context(encode, train, test, make_mesh(), **wrong)
    with pytest.raises(InputError, match="seed is -1"):
        segment_in_context(encode, train, test, make_mesh(), memory=9, seed=-1)
    with pytest.raises(InputError, match="has 15 patches"):
        segment_in_context(lambda images: encode(images)[:, :15], train, test, make_mesh(), memory=9)
    make(tmp_path, 3, 0)
    for path in (tmp_path / "masks").iterdir():
        Image.fromarray(np.full((SIZE, SIZE), 255, np.uint8)).save(path)
    nothing = Segmented(tmp_path / "images", classes=2, size=SIZE)
    with pytest.raises(InputError, match="No pixel of the training masks"):
        segment_in_context(encode, nothing, test, make_mesh(), memory=9)
