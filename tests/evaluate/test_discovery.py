"""LOST against the algorithm of the paper in NumPy and SciPy; CorLoc by hand on boxes and masks."""

import functools

import jax
import numpy as np
import pytest
from pictures import smooth
from PIL import Image
from scipy import ndimage

from ssljax.data.boxes import find_boxed, mask_boxes, read_boxes
from ssljax.errors import InputError
from ssljax.evaluate.discovery import Discovery, lost, overlaps
from ssljax.evaluate.encoders import Pixels
from ssljax.mesh import make_mesh
from ssljax.models.pure import Pure
from ssljax.models.vit import vit
from ssljax.objectives.base import Encoder
from ssljax.ops.augment import IMAGENET_MEAN, IMAGENET_STD


def algorithm(features, grid, k):
    """The paper's steps, one patch after the other, float64."""
    n = len(features)
    product = lambda p, q: float(features[p].astype(np.float64) @ features[q])  # noqa: E731
    degree = [sum(product(p, q) > 0 for q in range(n) if q != p) for p in range(n)]
    ranked = sorted(range(n), key=lambda p: (degree[p], p))
    seed = ranked[0]
    seeds = [q for q in ranked[:k] if product(q, seed) > 0]
    mask = np.array([sum(product(p, s) for s in seeds) > 0 for p in range(n)]).reshape(grid)
    components, _ = ndimage.label(mask)
    row, column = divmod(seed, grid[1])
    return components == components[row, column], (row, column)


@pytest.mark.parametrize(("grid", "k", "seed"), [((6, 9), 100, 0), ((8, 8), 10, 1), ((5, 12), 1, 2), ((7, 7), 25, 3)])
def test_equals_the_algorithm(grid, k, seed):
    random = np.random.default_rng(seed)
    smooth_features = ndimage.gaussian_filter(random.normal(size=(*grid, 8)), (1.5, 1.5, 0)) - 0.01
    features = smooth_features.reshape(-1, 8).astype(np.float32)
    found = lost(features, grid, neighbours=k)
    mask, seed = algorithm(features, grid, k)
    np.testing.assert_array_equal(found.mask, mask)
    assert found.seed == seed and 0 < mask.sum() < mask.size
    rows, columns = np.where(mask)
    assert found.box == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)


def test_an_object_on_a_ground_is_found():
    """Patches of the ground are alike, and so are those of an object: the smaller one is the object."""
    grid = np.zeros((6, 8, 2), np.float32)
    grid[..., 0] = 1
    grid[1:4, 2:5] = (-0.1, 1)
    grid[5, 7] = (-0.1, 1)  # alike, and elsewhere
    found = lost(grid.reshape(-1, 2), (6, 8))
    assert found.box == (1, 2, 4, 5) and found.mask.sum() == 9


def test_nothing_at_all_is_a_patch():
    assert lost(np.zeros((12, 3), np.float32), (3, 4)).box == (0, 0, 1, 1)


def test_overlaps_by_hand():
    boxes = np.array([[0, 0, 4, 4], [2, 2, 6, 6], [4, 0, 8, 4], [0, 0, 2, 4]], float)
    np.testing.assert_allclose(overlaps(boxes[0], boxes), [1, 4 / 28, 0, 0.5])


def test_mask_boxes_by_hand():
    mask = np.zeros((5, 6), int)
    mask[1:3, 2:4], mask[4, 5], mask[0, 0] = 1, 7, 255
    np.testing.assert_array_equal(mask_boxes(mask), [[2, 1, 4, 3], [5, 4, 6, 5]])
    np.testing.assert_array_equal(mask_boxes(mask, binary=True), [[0, 0, 6, 5]])
    assert mask_boxes(np.zeros((2, 2), int), binary=True).shape == (0, 4)


XML = "<annotation><filename>a.jpg</filename>{}</annotation>"
OBJECT = (
    "<object><name>cat</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def voc(folder, boxes, shape=(48, 64)):
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for i, some in enumerate(boxes):
        Image.fromarray(smooth(i, *shape)).save(folder / "JPEGImages" / f"{i}.jpg")
        text = XML.format("".join(OBJECT.format(*box) for box in some))
        (folder / "Annotations" / f"{i}.xml").write_text(text)
    listed = folder / "ImageSets" / "Main" / "trainval.txt"
    listed.write_text("".join(f"{i}\n" for i in range(len(boxes))))
    return listed


@pytest.fixture(scope="module")
def encoder():
    """A tiny ViT at random."""
    model = Pure(functools.partial(vit, "ti", image_size=32, patch_size=8, width=32, depth=1, heads=4))
    return Encoder(model, model.init(jax.random.key(3)))


def test_corloc_of_boxes_that_were_found_and_of_others(tmp_path, encoder):
    """The keys by hand, without padding or batches; sizes that patches do not divide; one device and eight."""
    keys_of = jax.jit(lambda image: encoder(image, probe=-1).probe.keys)
    shapes, found = [(48, 64), (45, 60)], []
    listed = voc(tmp_path, [[(1, 1, 9, 9)]] * 6)
    for i in range(6):
        pixels = smooth(10 + i, *shapes[i % 2])
        Image.fromarray(pixels).save(tmp_path / "JPEGImages" / f"{i}.jpg", quality=100)
        pixels = np.asarray(Image.open(tmp_path / "JPEGImages" / f"{i}.jpg"))
        height, width = pixels.shape[:2]
        image = np.zeros((1, -(-height // 8) * 8, -(-width // 8) * 8, 3), np.float32)
        image[0, :height, :width] = (pixels / 255 - IMAGENET_MEAN) / IMAGENET_STD
        keys = np.asarray(keys_of(image))[0]
        grid = image.shape[1] // 8, image.shape[2] // 8
        top, left, bottom, right = lost(np.moveaxis(keys, 0, 1).reshape(keys.shape[1], -1), grid).box
        found.append((8 * left + 1, 8 * top + 1, min(8 * right, width), min(8 * bottom, height)))
    for i, box in enumerate(found):
        left, top, right, bottom = box
        middle = left + (right - left + 1) // 2 - 1  # the sides are even
        half, less = (left, top, middle, bottom), (left, top, middle - 1, bottom)  # a half counts, less does not
        boxes = [(1, 1, 2, 2), box if i < 3 else half if i == 3 else less]
        (tmp_path / "Annotations" / f"{i}.xml").write_text(XML.format("".join(OBJECT.format(*b) for b in boxes)))
    for mesh in (make_mesh("", jax.devices()[:1]), make_mesh("fsdp=2,tensor=2")):
        result = Discovery(data=str(listed), batch_size=2)(encoder, mesh)
        assert result.metrics == {"discovery_corloc": 4 / 6}
        assert result.details == {"without_objects": 0}


def test_pixels_find_a_bright_square_in_masks_as_in_boxes(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for i in range(4):
        mask = np.zeros((80, 96), np.uint8)
        mask[8 * i + 16 : 8 * i + 40, 24:56] = 255 * (i < 3)  # the last has no object
        Image.fromarray(np.where(mask, 250, 60).astype(np.uint8)).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
    pixels = Encoder(Pixels(8), {})
    result = Discovery(data=str(tmp_path / "images"), binary=True)(pixels, make_mesh())
    assert result.metrics == {"discovery_corloc": 1.0} and result.details == {"without_objects": 1}
    smaller = Discovery(data=str(tmp_path / "images"), binary=True, short_side=40)(Encoder(Pixels(4), {}), make_mesh())
    assert smaller.metrics == {"discovery_corloc": 1.0}
    with pytest.raises(InputError, match="No image of .* has an object"):
        Discovery(data=str(tmp_path / "images"))(pixels, make_mesh())  # 255 is to be ignored


def test_boxes_of_voc(tmp_path):
    listed = voc(tmp_path, [[(1, 1, 64, 48), (3, 4, 5, 6)], []])
    (first, second) = find_boxed(listed)
    np.testing.assert_array_equal(first.boxes(), [[0, 0, 64, 48], [2, 3, 5, 6]])
    assert first.shape == (48, 64)
    with pytest.raises(InputError, match="1.xml has no boxes"):
        second.boxes()
    for text, message in (
        ("<annotation>", "is no annotation of VOC"),
        (XML.format("<object/>"), "is no annotation of VOC"),
        (XML.format(OBJECT.format(5, 5, 4, 9)), "has a box without area"),
    ):
        (tmp_path / "Annotations" / "1.xml").write_text(text)
        with pytest.raises(InputError, match=f"1.xml {message}"):
            read_boxes(tmp_path / "Annotations" / "1.xml")
    (tmp_path / "Annotations" / "1.xml").unlink()
    with pytest.raises(InputError, match="1.xml is missing"):
        find_boxed(listed)
    (tmp_path / "JPEGImages" / "0.jpg").unlink()
    with pytest.raises(InputError, match="0.jpg is missing"):
        find_boxed(listed)
    listed.write_text("\n")
    with pytest.raises(InputError, match="names no images"):
        find_boxed(listed)


def test_bad_input(tmp_path):
    listed = str(voc(tmp_path, [[(1, 1, 64, 48)]]))
    for wrong in (dict(short_side=-1), dict(neighbours=0), dict(batch_size=0)):
        with pytest.raises(InputError, match="give at least 0, 1, 1"):
            Discovery(data=listed, **wrong)
    with pytest.raises(InputError, match="needs images with boxes"):
        Discovery(data="")
    with pytest.raises(InputError, match="trainval.txt is a list of VOC, with boxes; leave binary out"):
        Discovery(data=listed, binary=True)
    with pytest.raises(InputError, match="short_side is 7, less than one patch of 8 pixels"):
        Discovery(data=listed, short_side=7)(Encoder(Pixels(8), {}), make_mesh())
    with pytest.raises(InputError, match="take a ViT"):
        Discovery(data=listed)(Encoder(lambda params, images: images, {}), make_mesh())
