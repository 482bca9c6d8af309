"""Images for training and for evaluations, against Pillow, and against the same pictures as a video's frames."""

import json
import pickle
import shutil

import cv2
import numpy as np
import pytest
from pictures import encode, make_folder, smooth
from PIL import Image

from data_prep.images import main
from ssljax.data.images import Images, Labelled, Ordered, evaluation_view, resized_box
from ssljax.data.imageset import ImageSet, read_image_index
from ssljax.data.index import read_index
from ssljax.data.loader import Dataset, load
from ssljax.errors import InputError

COUNTS = {"cat": 12, "dog": 9}


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pets")
    make_folder(folder / "raw", COUNTS)
    assert main([str(folder / "raw"), "--output", str(folder / "pets")]) == 0
    return folder / "pets"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Six JPEGs of mixed sizes, two of them grey, without labels."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "raw").mkdir()
    for i, (height, width) in enumerate([(40, 60), (60, 40), (300, 200), (500, 700), (33, 33), (64, 1000)]):
        pixels = smooth(i, height, width)
        (folder / "raw" / f"{i}.jpg").write_bytes(encode(pixels[..., 0] if i % 3 == 2 else pixels, "JPEG", quality=95))
    assert main([str(folder / "raw"), "--output", str(folder / "plain")]) == 0
    return folder / "plain"


@pytest.fixture
def copy(pets, tmp_path):
    return shutil.copytree(pets, tmp_path / "copy")


def names(images, n):
    return [images.describe(position)["image"] for position in range(n)]


def test_every_image_comes_once_an_epoch_in_a_new_order(pets):
    images = Images(data=pets, size=16)
    assert isinstance(images, Dataset)
    first, second = names(images, 21), [images.describe(position)["image"] for position in range(21, 42)]
    assert sorted(first) == sorted(second) == sorted(ImageSet(pets).name(i) for i in range(21))
    assert first != second
    sample = images[4_000_000_000]
    assert sample["image"].shape == (16, 16, 3) and sample["image"].dtype == np.uint8
    assert sample["position"].shape == () and sample["position"].dtype == np.uint32
    assert sample["position"] == 4_000_000_000


def test_every_choice_comes_from_seed_and_position(plain):
    make = lambda seed: Images(data=plain, size=24, seed=seed)  # noqa: E731
    a, b, c = make(1), pickle.loads(pickle.dumps(make(1))), make(2)
    for position in (5, 0, 77):
        np.testing.assert_array_equal(a[position]["image"], b[position]["image"])
        assert a.describe(position) == b.describe(position)
    assert [a.describe(i) for i in range(6)] != [c.describe(i) for i in range(6)]
    assert a.checksum == c.checksum != Images(data=[plain], size=24, scale=(1.0, 1.0)).checksum + "x"
    batches = load(a, rows=range(4), batch_size=4, threads=3)
    with batches:
        np.testing.assert_array_equal(next(batches)["image"], np.stack([a[i]["image"] for i in range(4)]))


def test_several_sets_in_proportion(pets, plain):
    images = Images(data=[pets, plain], size=8, weights=[1, 3])
    drawn = [images.describe(position)["data"] for position in range(40)]
    assert drawn.count(str(plain)) == 30
    one, other = Images(data=pets, size=8).checksum, Images(data=plain, size=8).checksum
    assert len({one, other, images.checksum}) == 3


def reference(pixels, box, size):
    """The box by Pillow's antialiased bilinear resize."""
    top, left, h, w = box
    image = Image.fromarray(np.ascontiguousarray(pixels[top : top + h, left : left + w]))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).astype(float)


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.square(a.astype(float) - b).mean(), 1e-9))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("box", [(0, 0, 480, 640), (10, 20, 200, 150), (400, 0, 33, 640), (479, 639, 1, 1)], ids=str)
@pytest.mark.parametrize("size", [32, 100])
def test_boxes_are_cut_and_resized(kind, box, size):
    pixels = smooth(7, 480, 640)
    found = resized_box(encode(pixels, kind, **({"quality": 98} if kind == "JPEG" else {})), (480, 640), box, size)
    assert psnr(found, reference(pixels, box, size)) > (33 if min(box[2:]) > 40 else 28)


def test_shrinking_does_not_alias():
    """Fine stripes become grey, in the decoder and by area."""
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    for kind, options in (("PNG", {}), ("JPEG", {"quality": 100})):
        data = encode(stripes, kind, **options)
        assert resized_box(data, (512, 512), (0, 0, 512, 512), 32).std() < 2
        jagged = resized_box(data, (512, 512), (0, 0, 512, 512), 30, antialias=False)
        expected = cv2.resize(np.asarray(Image.open(__import__("io").BytesIO(data))), (30, 30))
        assert psnr(jagged, expected) > 40


def test_the_centred_square(plain):
    images = Images(data=plain, size=33, scale=(1.0, 1.0), ratio=None)
    place = names(images, 6).index("4.jpg")
    assert images.describe(place)["box"] == [0, 0, 33, 33]
    np.testing.assert_allclose(images[place]["image"].astype(int), smooth(4, 33, 33).astype(int), atol=25)
    assert images.describe(names(images, 6).index("3.jpg"))["box"] == [0, 100, 500, 500]


def test_damaged_records_are_replaced_by_others(copy, capsys):
    path = copy / "images-00000.array_record"
    data = bytearray(path.read_bytes())
    found = data.find(ImageSet(copy).encoded(5))
    data[found + 100] ^= 255
    path.write_bytes(data)
    images = Images(data=copy, size=16, bad_share=1.0)
    whole = [images.describe(position) for position in range(21)]
    assert ImageSet(copy).name(5) not in {place["image"] for place in whole}
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "image 5 (cat/005.png)" in told[0] and "another image takes its place" in told[0]
    assert [images.describe(position) for position in range(21)] == whole
    with pytest.raises(InputError, match="were damaged, more than bad_share"):
        names(Images(data=copy, size=16, bad_share=0.0), 21)


def change(folder, **values):
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: change(f, version=9), "has version 9, this program reads 1: prepare the images again"),
        (lambda f: change(f, kind="video"), "holds no images but a prepared video"),
        (lambda f: change(f, labels=[0]), "contradicts itself"),
        (lambda f: change(f, labels=[0] * 20 + [77]), "index.json has the label 77, but its 2 classes are 0 to 1"),
        (lambda f: change(f, labels=[-1] + [0] * 20), "index.json has the label -1, but its 2 classes are 0 to 1"),
        (lambda f: change(f, names=[], sizes=[], labels=[], segments=[]), "holds no images"),
        (lambda f: (f / "index.json").write_text("{"), "is not the index"),
        (lambda f: (f / "index.json").write_text("[]"), "is not the index"),
        (lambda f: (f / "images-00000.array_record").unlink(), "array_record is missing"),
        (lambda f: (f / "images-00000.array_record").write_bytes(b""), "has 0 bytes instead of"),
        (lambda f: (f / "index.json").unlink(), "run `python -m data_prep.images .*copy --output DIR` first"),
    ],
)
def test_damage_is_told(copy, damage, message):
    damage(copy)
    with pytest.raises(InputError, match=message):
        read_image_index(copy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(data=()), "no images were named"),
        (dict(data="nowhere"), "nowhere is not a folder"),
        (dict(size=0), "size"),
        (dict(scale=(0.5, 1.5)), "larger than the frame"),
        (dict(ratio=(2, 1)), "ratio"),
        (dict(weights=[1, 2]), "2 weights were given for 1"),
        (dict(bad_share=2), "bad_share .2.* the images"),
    ],
)
def test_bad_arguments(pets, arguments, message):
    with pytest.raises(InputError, match=message):
        Images(**dict(data=pets, size=8) | arguments)


def test_a_folder_of_sets_is_told(pets):
    with pytest.raises(InputError, match="is no data set itself but holds pets: name one"):
        Images(data=pets.parent, size=8)
    with pytest.raises(InputError, match="named twice"):
        Images(data=[pets, pets], size=8)


def test_images_are_no_video(pets):
    with pytest.raises(InputError, match="pets holds no video but prepared images: read them with"):
        read_index(pets)


def test_labelled_images_come_in_order(pets):
    labelled = Labelled(pets, size=48, batch_size=8)
    for _ in range(2):
        images, labels = zip(*labelled, strict=True)
        assert [len(batch) for batch in images] == [8, 8, 5]
        assert np.concatenate(labels).tolist() == [0] * 12 + [1] * 9
    assert (len(labelled), labelled.classes) == (21, ("cat", "dog"))
    raw = pets.parent / "raw" / ImageSet(pets).name(20)
    np.testing.assert_array_equal(images[2][4], np.asarray(Image.open(raw)))  # of that size: the image itself


def test_images_without_labels_come_in_order(pets, plain):
    for one, (other, _) in zip(
        Ordered(pets, size=48, batch_size=8), Labelled(pets, size=48, batch_size=8), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert sum(map(len, Ordered(plain, size=16, batch_size=2))) == len(Ordered(plain, size=16)) == ImageSet(plain).count


def test_labels_are_needed(plain):
    with pytest.raises(
        InputError, match="plain has no labels: prepare a folder with one subfolder for each class, two or more"
    ):
        Labelled(plain, size=32)


@pytest.mark.parametrize("shape", [(300, 500), (500, 300), (256, 256), (90, 100)])
def test_the_evaluations_view(shape):
    """torchvision's Resize(256, bicubic) and CenterCrop(224) on a Pillow image."""
    image = Image.fromarray(smooth(3, *shape))
    height, width = shape
    if width <= height:
        scaled = image.resize((256, int(256 * height / width)), Image.Resampling.BICUBIC)
    else:
        scaled = image.resize((int(256 * width / height), 256), Image.Resampling.BICUBIC)
    left, top = round((scaled.width - 224) / 2), round((scaled.height - 224) / 2)
    expected = np.asarray(scaled.crop((left, top, left + 224, top + 224)))
    np.testing.assert_array_equal(evaluation_view(np.asarray(image), 224), expected)


@pytest.mark.parametrize("length", [0, 10, 16, 20, 23, 24])
def test_a_png_cut_short_is_told(pets, monkeypatch, length):
    whole = ImageSet(pets).encoded(5)
    assert whole.startswith(b"\x89PNG")
    monkeypatch.setattr(ImageSet, "encoded", lambda images, number: whole[:length])
    for read in (lambda: list(Ordered(pets, size=16)), lambda: Images(data=pets, size=16, bad_share=0)[0]):
        with pytest.raises(InputError, match="cannot be decoded"):
            read()


def test_a_header_cut_short_is_told(plain, monkeypatch):
    whole = ImageSet(plain).encoded(0)
    monkeypatch.setattr(ImageSet, "encoded", lambda images, number: whole[:600])
    with pytest.raises(InputError, match=r"image 0 \(0.jpg\) of .*plain cannot be decoded .its header is cut short"):
        list(Ordered(plain, size=16))
    with pytest.raises(InputError, match="its header is cut short"):
        Images(data=plain, size=16, bad_share=0)[0]


def test_a_damaged_record_ends_an_evaluation(copy):
    path = copy / "images-00000.array_record"
    data = bytearray(path.read_bytes())
    data[data.find(ImageSet(copy).encoded(5)) + 100] ^= 255
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"image 5 \(cat/005.png\)"):
        list(Labelled(copy, size=16))
