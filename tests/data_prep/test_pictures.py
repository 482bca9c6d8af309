"""One image file to one record, against Pillow's own reading."""

import io

import numpy as np
import pytest
from pictures import encode, smooth
from PIL import Image

from data_prep.pictures import BadImage, to_picture
from ssljax.data.images import decode

RGB = smooth(1)
GREY = RGB[..., 0]


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.square(a.astype(float) - b).mean(), 1e-9))


def triple(grey):
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.mark.parametrize("pixels", [RGB, GREY], ids=["rgb", "grey"])
@pytest.mark.parametrize("progressive", [False, True])
def test_plain_jpegs_keep_their_bytes(pixels, progressive):
    data = encode(pixels, "JPEG", progressive=progressive)
    picture = to_picture(data)
    assert picture == (data, 64, 48)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(decode(picture.record).astype(int) - expected).max() <= 2  # two builds of one library


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# What the EXIF standard says each tag means for the stored rows and columns.
UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pictures_are_turned_upright(kind, orientation):
    picture = to_picture(encode(RGB, kind, exif=turned(orientation)))
    shown = UPRIGHT[orientation](RGB)
    assert (picture.height, picture.width) == shown.shape[:2]
    found = decode(picture.record)
    assert found.shape == shown.shape
    assert psnr(found, shown) > (30 if kind == "JPEG" else 80)


def palette(transparent):
    image = Image.fromarray(RGB).quantize(16)
    return encode(image, "PNG", **({"transparency": 0} if transparent else {})), image


ALPHA = np.dstack([RGB, np.linspace(0, 255, 64, dtype=np.uint8)[None].repeat(48, 0)])
ON_WHITE = np.rint(RGB * (ALPHA[..., 3:] / 255) + 255 * (1 - ALPHA[..., 3:] / 255)).astype(np.uint8)
WORD = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
CASES = {
    "png": (encode(RGB, "PNG"), RGB),
    "grey png": (encode(GREY, "PNG"), triple(GREY)),
    "bmp": (encode(RGB, "BMP"), RGB),
    "tiff": (encode(RGB, "TIFF"), RGB),
    "lossless webp": (encode(RGB, "WEBP", lossless=True), RGB),
    "alpha": (encode(ALPHA, "PNG"), ON_WHITE),
    "16 bits": (encode(WORD, "PNG"), triple(np.rint(WORD / 257).astype(np.uint8))),
    "16 bits tiff": (encode(WORD, "TIFF"), triple(np.rint(WORD / 257).astype(np.uint8))),
    "1 bit": (encode(Image.fromarray(GREY > 127), "PNG"), triple(np.where(GREY > 127, 255, 0))),
    "palette": (palette(False)[0], np.asarray(palette(False)[1].convert("RGB"))),
    "animated gif": (
        encode(Image.fromarray(GREY), "GIF", save_all=True, append_images=[Image.fromarray(255 - GREY)]),
        triple(GREY),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_lossless_sources_stay_lossless(name):
    data, expected = CASES[name]
    picture = to_picture(data)
    assert picture.record.startswith(b"\x89PNG")
    np.testing.assert_allclose(decode(picture.record), expected, atol=1 if name == "alpha" else 0)


def test_a_transparent_colour_is_white():
    data, image = palette(True)
    found = decode(to_picture(data).record)
    transparent = np.asarray(image) == 0
    assert transparent.any() and (found[transparent] == 255).all()
    np.testing.assert_array_equal(found[~transparent], np.asarray(image.convert("RGB"))[~transparent])


def test_lossy_sources_become_jpeg():
    large = smooth(2, 96, 128)
    for data in (encode(Image.fromarray(large).convert("CMYK"), "JPEG", quality=95), encode(large, "WEBP", quality=90)):
        picture = to_picture(data)
        assert picture.record.startswith(b"\xff\xd8")
        assert psnr(decode(picture.record), large) > 30
    assert len(to_picture(encode(large, "WEBP"), quality=30).record) < len(to_picture(encode(large, "WEBP")).record)
    assert to_picture(encode(smooth(2, 32, 32), "WEBP")).record.startswith(b"\x89PNG")  # small


def test_the_short_side_is_scaled_down_never_up():
    large = smooth(3, 96, 160)
    picture = to_picture(encode(large, "PNG"), short_side=48)
    assert (picture.width, picture.height) == (80, 48)
    expected = np.asarray(Image.fromarray(large).resize((80, 48), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(decode(picture.record), expected)
    jpeg = encode(large, "JPEG")
    assert to_picture(jpeg, short_side=96).record == jpeg
    assert to_picture(jpeg, short_side=48)[1:] == (80, 48)


JPEG = encode(smooth(4, 200, 300), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello", "not an image"),
        (JPEG[: len(JPEG) * 3 // 4], "Premature end"),
        (encode(RGB, "PNG")[:-300], "truncated"),
        (JPEG[:-600] + b"\xff" * 60 + JPEG[-540:], "marker"),
        (encode(np.ones((4, 4), np.float32), "TIFF"), "floating-point"),
    ],
    ids=["empty", "text", "cut jpeg", "cut png", "garbage", "float"],
)
def test_damage_is_told(data, reason):
    with pytest.raises(BadImage, match=f"(?i){reason}"):
        to_picture(data)
