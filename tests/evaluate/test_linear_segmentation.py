"""The linear head: its loss in NumPy and SciPy, and that it learns what it can, on one device and on eight."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, special

from ssljax.data.masks import Segmented
from ssljax.errors import InputError
from ssljax.evaluate.linear_segmentation import (
    Head,
    LinearSegmentation,
    Moments,
    cross_entropy,
    order,
    scores,
    segment_linearly,
)
from ssljax.evaluate.masks import intersection_over_union
from ssljax.mesh import make_mesh

CLASSES, SIZE, SIDE = 3, 16, 4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Stripes as wide as a patch; the class is a linear function of the colour, and some pixels are ignored."""
    folder, random = tmp_path_factory.mktemp("linear"), np.random.default_rng(0)
    colours = np.array([[60, 90, 120], [120, 90, 60], [90, 150, 90]])
    for name, count in (("train", 24), ("test", 10)):
        for kind in ("images", "masks"):
            (folder / name / kind).mkdir(parents=True)
        for i in range(count):
            mask = np.kron(random.integers(0, CLASSES, (1, SIDE)), np.ones((SIZE, SIZE // SIDE), int))
            image = np.clip(colours[mask] + random.normal(0, 15, (SIZE, SIZE, 3)), 0, 255)
            mask[:, 0] = 255
            Image.fromarray(image.astype(np.uint8)).save(folder / name / "images" / f"{i}.png")
            Image.fromarray(mask.astype(np.uint8)).save(folder / name / "masks" / f"{i}.png")
    return [Segmented(folder / name / "images", classes=CLASSES, size=SIZE, batch_size=8) for name in ("train", "test")]


@jax.jit
def encode(images):
    pixels = images.astype(np.float32).reshape(-1, SIDE, SIZE // SIDE, SIDE, SIZE // SIDE, 3)
    return (pixels.mean((2, 4)) / np.float32(255)).reshape(-1, SIDE**2, 3)


def test_the_loss_equals_the_formula():
    random = np.random.default_rng(1)
    patches, masks = random.normal(size=(2, SIDE**2, 5)), random.integers(-1, CLASSES, (2, SIZE, SIZE))
    head = Head(*(random.normal(size=shape) for shape in ((5,), (5,), (5, CLASSES), (CLASSES,))))
    moments = Moments(random.normal(size=5), random.uniform(0.5, 2, size=5))
    grid = (patches - moments.mean) / np.sqrt(moments.variance + 1e-5) * head.scale + head.shift
    grid = (grid @ head.kernel + head.bias).reshape(2, SIDE, SIDE, CLASSES)
    at = np.clip((np.arange(SIZE) + 0.5) * SIDE / SIZE - 0.5, 0, SIDE - 1)
    where = np.meshgrid(range(2), at, at, indexing="ij")
    pixels = np.stack([ndimage.map_coordinates(grid[..., c], where, order=1) for c in range(CLASSES)], -1)
    chosen = np.take_along_axis(special.log_softmax(pixels, -1), np.maximum(masks, 0)[..., None], -1)[..., 0]
    expected = -chosen[masks >= 0].mean()
    float32 = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (head, moments, patches))
    found = cross_entropy(scores(*float32), jnp.asarray(masks, jnp.int32))
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_no_labelled_pixel_is_no_loss():
    assert float(cross_entropy(jnp.ones((1, 4, 3)), jnp.full((1, 8, 8), -1))) == 0.0


def test_it_learns_and_the_devices_do_not_matter(data):
    train, test = data
    more = dict(steps=120, learning_rate=0.05)
    one = segment_linearly(encode, train, test, make_mesh("", jax.devices()[:1]), **more)
    eight = segment_linearly(encode, train, test, make_mesh("fsdp=2"), **more)
    assert one.sum() == 10 * SIZE * (SIZE - 1)
    assert intersection_over_union(one)[0] > 0.9
    assert np.abs(one - eight).sum() <= 0.01 * one.sum()
    untrained = segment_linearly(encode, train, test, make_mesh(), steps=1)
    assert intersection_over_union(untrained)[0] < 0.6


def test_the_batch_norm_undoes_scale_and_shift_of_the_features(data):
    train, test = data
    more = dict(steps=60, learning_rate=0.05)
    one = segment_linearly(encode, train, test, make_mesh(), **more)
    other = segment_linearly(lambda images: 100 * encode(images) - 7, train, test, make_mesh(), **more)
    assert np.abs(one - other).sum() <= 0.05 * one.sum()


def test_the_order_is_all_images_once_then_again():
    numbers = list(itertools.chain.from_iterable(itertools.islice(order(5, 4, seed=3), 5)))
    epochs = [numbers[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_bad_input(data, tmp_path):
    train, test = data
    place = str(train.pairs[0].image.parent)
    for wrong, message in (
        (dict(steps=0), "^steps is 0; give at least 1"),
        (dict(learning_rate=np.nan), "^learning_rate is nan"),
        (dict(weight_decay=np.nan), "^weight_decay is nan"),
        (dict(seed=-1), "^seed is -1"),
    ):
        with pytest.raises(InputError, match=message):
            segment_linearly(encode, train, test, make_mesh(), **wrong)
        with pytest.raises(InputError, match=message):
            LinearSegmentation(train=place, test=place, classes=CLASSES, size=SIZE, **wrong)
    odd = Segmented(train.pairs[0].image.parent, classes=CLASSES, size=SIZE, batch_size=3)
    with pytest.raises(InputError, match="does not divide"):
        segment_linearly(encode, odd, test, make_mesh(), steps=1)
    with pytest.raises(InputError, match="The loss is not finite"):
        segment_linearly(lambda images: np.float32(np.nan) * encode(images), train, test, make_mesh(), steps=1)
    for kind, value in (("images", 9), ("masks", 255)):
        (tmp_path / kind).mkdir()
        Image.fromarray(np.full((SIZE, SIZE), value, np.uint8)).save(tmp_path / kind / "a.png")
    nothing = Segmented(tmp_path / "images", classes=CLASSES, size=SIZE)
    with pytest.raises(InputError, match="No pixel of the training masks"):
        segment_linearly(encode, nothing, test, make_mesh(), steps=1)
