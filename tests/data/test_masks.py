"""Images with masks: the layouts, what the values mean, and what is wrong with them."""

import numpy as np
import pytest
from pictures import encode, smooth
from PIL import Image

from ssljax.data.masks import Segmented, find_pairs, read_image, read_mask
from ssljax.errors import InputError


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def plain(folder, values, images="images", masks="masks", shape=(24, 32)):
    """Pairs "a", "sub/b": the left half of each mask has the first value, the right the second."""
    for seed, name in enumerate(("a", "sub/b")):
        save(folder / images / f"{name}.png", smooth(seed, *shape))
        mask = np.full(shape, values[0], np.uint8)
        mask[:, shape[1] // 2 :] = values[1]
        save(folder / masks / f"{name}.png", mask)
    return folder / images


def test_the_layouts(tmp_path):
    ade = plain(tmp_path / "ade", (0, 3), "images/training", "annotations/training")
    assert [pair.name for pair in find_pairs(ade)] == ["a", "sub/b"]
    assert find_pairs(ade)[1].mask == tmp_path / "ade/annotations/training/sub/b.png"
    davis = plain(tmp_path / "davis", (0, 255), "JPEGImages/480p", "Annotations/480p")
    assert [pair.mask.name for pair in find_pairs(davis)] == ["a.png", "b.png"]

    voc = tmp_path / "voc"
    for name in ("x", "y", "unused"):
        save(voc / "JPEGImages" / f"{name}.jpg", smooth(1))
        save(voc / "SegmentationClass" / f"{name}.png", np.zeros((48, 64), np.uint8))
    listed = voc / "ImageSets" / "Segmentation" / "val.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("y\nx 1\n\n")
    assert [pair.name for pair in find_pairs(listed)] == ["y", "x"]


@pytest.mark.parametrize(
    ("labels", "values", "classes", "expected"),
    [
        ("index", (2, 255), 3, (2, -1)),
        ("from_one", (0, 150), 150, (-1, 149)),
        ("binary", (0, 255), 2, (0, 1)),
    ],
)
def test_what_values_mean(tmp_path, labels, values, classes, expected):
    data = Segmented(plain(tmp_path, values), classes=classes, size=16, labels=labels, batch_size=3)
    ((images, masks),) = list(data)
    assert images.shape == (2, 16, 16, 3) and images.dtype == np.uint8
    assert masks.dtype == np.int32
    np.testing.assert_array_equal(masks[0], np.repeat([expected], 16, 0).repeat(8, 1))
    resized = Image.fromarray(smooth(0, 24, 32)).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(images[0], resized)


def test_batches_in_any_order(tmp_path):
    data = Segmented(plain(tmp_path, (0, 1)), classes=2, size=8, batch_size=1)
    whole = [images for images, _ in data]
    chosen = list(data.batches([[1, 0, 1], [0]]))
    np.testing.assert_array_equal(chosen[0][0], np.concatenate([whole[1], whole[0], whole[1]]))
    assert len(chosen) == 2 and len(data) == 2


def test_palettes_and_sixteen_bits(tmp_path):
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = Image.fromarray(indices).convert("P")
    palette.putpalette(list(range(255, -1, -1)) * 3)
    palette.putdata(indices.ravel().tolist())
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "palette.png", (3, 4)), indices)
    Image.fromarray(indices.astype(np.uint16) * 1000).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "deep.png", (3, 4)), indices.astype(int) * 1000)


def test_bad_masks_are_named(tmp_path):
    def read(**arguments):
        return list(Segmented(tmp_path / "images", **dict(classes=2, size=8) | arguments))

    plain(tmp_path, (0, 7))
    with pytest.raises(InputError, match="a.png holds the value 7, .* values are 0 to 1, or 255"):
        read()
    with pytest.raises(InputError, match="a.png holds the value 7, .* values are 0 to 2"):
        read(labels="from_one")
    with pytest.raises(InputError, match="labels is 'wrong'"):
        read(labels="wrong")
    with pytest.raises(InputError, match="for binary labels 2 classes"):
        read(labels="binary", classes=3)
    save(tmp_path / "masks" / "a.png", np.zeros((24, 31), np.uint8))
    with pytest.raises(InputError, match="a.png has 31x24 pixels, but its image 32x24"):
        read()
    save(tmp_path / "masks" / "a.png", np.zeros((24, 32, 3), np.uint8))
    with pytest.raises(InputError, match="a.png is a picture in colours"):
        read()
    (tmp_path / "masks" / "a.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match="a.png cannot be decoded"):
        read()
    save(tmp_path / "masks" / "a.png", np.zeros((24, 32), np.uint8))
    (tmp_path / "images" / "a.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match="images/a.png cannot be decoded"):
        read()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="images/a.png cannot be decoded"):
        read()
    whole = encode(smooth(0, 24, 32), "JPEG")
    for length in range(2, 620, 6):  # within its header
        (tmp_path / "images" / "a.png").write_bytes(whole[:length])
        with pytest.raises(InputError, match="images/a.png cannot be decoded .its header is cut short"):
            read_image(tmp_path / "images" / "a.png")
    (tmp_path / "masks" / "a.png").unlink()
    with pytest.raises(InputError, match="masks/a.png is missing"):
        read()


def test_bad_places_are_told(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "list.txt").write_text("x")
    with pytest.raises(InputError, match="has no masks"):
        find_pairs(tmp_path / "images")
    (tmp_path / "masks").mkdir()
    with pytest.raises(InputError, match="has no images"):
        find_pairs(tmp_path / "images")
    with pytest.raises(InputError, match="lies in no folder called"):
        find_pairs(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        find_pairs(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is no list of VOC"):
        find_pairs(tmp_path / "list.txt")
