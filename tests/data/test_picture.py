"""The stored picture's colours and scale, against the formulas of ITU-T H.273 in float64."""

import av
import numpy as np
import pytest

from ssljax.data.picture import geometry, to_record
from ssljax.data.tiles import decode, encode

KR_KB = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}


def frame_of(rgb, width, height, matrix, full):
    """A flat 4:2:0 frame of one colour, and that colour after rounding to 8 bits as the frame holds it."""
    kr, kb = KR_KB[matrix]
    r, g, b = np.asarray(rgb) / 255
    y = kr * r + (1 - kr - kb) * g + kb * b
    u, v = (b - y) / (2 - 2 * kb), (r - y) / (2 - 2 * kr)
    scale = (255, 255, 0) if full else (219, 224, 16)
    planes = np.rint([y * scale[0] + scale[2], u * scale[1] + 128, v * scale[1] + 128]).clip(0, 255).astype(np.uint8)
    array = np.concatenate(
        [
            np.full(width * height, planes[0]),
            np.full(width * height // 4, planes[1]),
            np.full(width * height // 4, planes[2]),
        ]
    ).reshape(height * 3 // 2, width)
    frame = av.VideoFrame.from_ndarray(array, format="yuv420p")
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    return frame


@pytest.mark.parametrize("matrix", KR_KB)
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize(
    "rgb", [(0, 0, 0), (255, 255, 255), (200, 40, 60), (30, 180, 90), (20, 60, 210), (128, 128, 128)]
)
def test_colours(matrix, full, rgb):
    frame = frame_of(rgb, 64, 32, matrix, full)
    record = to_record(frame, geometry(frame, 1.0, 540), 100)
    picture = decode(record, 32, 64)
    assert picture.shape == (32, 64, 3)
    np.testing.assert_allclose(picture.astype(int), np.broadcast_to(rgb, picture.shape), atol=3)


def test_scaled_by_area():
    grey = np.random.default_rng(0).integers(60, 200, (256, 512)).astype(np.uint8)
    array = np.concatenate([grey, np.full((128, 512), 128, np.uint8)])
    frame = av.VideoFrame.from_ndarray(array, format="yuv420p")
    frame.colorspace, frame.color_range = 5, 2
    shape = geometry(frame, 1.0, 64)
    assert shape.stored == (128, 64)
    expected = grey.reshape(64, 4, 128, 4).mean((1, 3))
    picture = decode(to_record(frame, shape, 100), 64, 128)[..., 0]  # grey: no chroma
    assert np.abs(picture - expected).max() < 3


@pytest.mark.parametrize(
    ("size", "aspect", "short_side", "stored"),
    [
        ((3840, 2160), 1.0, 540, (960, 540)),
        ((640, 272), 1.0, 540, (640, 272)),
        ((1080, 1920), 1.0, 540, (540, 960)),
        ((720, 576), 16 / 15, 540, (720, 540)),  # anamorphic: the long way is shortened, none is stretched
        ((720, 480), 8 / 9, 540, (640, 480)),
    ],
)
def test_geometry(size, aspect, short_side, stored):
    assert geometry(av.VideoFrame(*size, "yuv420p"), aspect, short_side).stored == stored


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv422p10le"])
def test_chroma_at_full_resolution(pixels):
    """Colour stripes one stored pixel wide: 4:4:4 keeps them, 4:2:0 cannot."""
    rgb = np.zeros((256, 256, 3), np.uint8)
    rgb[:, :, 0], rgb[:, :, 2] = np.where(np.arange(256) // 4 % 2, 255, 60), np.where(np.arange(256) // 4 % 2, 60, 255)
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pixels)
    shape = geometry(frame, 1.0, 64)
    expected = rgb.reshape(64, 4, 64, 4, 3).mean((1, 3))
    errors = {
        chroma: np.abs(decode(to_record(frame, shape, 100, chroma), 64, 64) - expected)[:, 2:-2].mean()
        for chroma in (420, 444)
    }
    assert errors[444] < 5 < 40 < errors[420]


@pytest.mark.parametrize("full", [True, False])
def test_ten_bits_are_rounded_not_cut(full):
    """A ramp of 10-bit greys: rounding two bits off errs by 1/8 in the mean, cutting them off by 3/8."""
    ramp = np.repeat(np.arange(64, 940, dtype=np.uint16), 2)[None].repeat(64, 0)[:, :1744]
    planes = np.concatenate([ramp, np.full((32, ramp.shape[1]), 512, np.uint16)])
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p10le")
    frame.colorspace, frame.color_range = 5, 2 if full else 1
    picture = decode(to_record(frame, geometry(frame, 1.0, 540), 100), 64, ramp.shape[1])[..., 1]
    expected = ramp / 4.0 if full else (ramp / 4.0 - 16) * 255 / 219
    assert abs((picture - expected).mean()) < 0.2
    assert np.abs(picture - expected).max() < 1.2


def test_eight_bits_are_as_they_were():
    """Full-range BT.601 needs no conversion: the record is that of the planes themselves, to the byte."""
    planes = np.random.default_rng(0).integers(0, 256, (96, 64)).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    frame.colorspace, frame.color_range = 5, 2
    parts = [planes[:64], planes[64:80].reshape(32, 32), planes[80:].reshape(32, 32)]
    assert to_record(frame, geometry(frame, 1.0, 540), 85) == encode(parts, 85)
