"""HDR to SDR against the formulas of the standards, written out in float64 colour by colour."""

import math

import av
import numpy as np
import pytest

from ssljax.data.hdr import tone_map
from ssljax.data.picture import geometry, to_record
from ssljax.data.tiles import decode

PQ, HLG = 16, 18
# Chromaticities of red, green, blue and white: ITU-R BT.2020 and BT.709.
BT2020 = [(0.708, 0.292), (0.170, 0.797), (0.131, 0.046)]
BT709 = [(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)]
D65 = (0.3127, 0.3290)


def pq(light):
    """SMPTE ST 2084, equation 5.2: the signal of cd/m2."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    y = (light / 10000) ** m1
    return ((c1 + c2 * y) / (1 + c3 * y)) ** m2


def inverse_pq(signal):
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    n = signal ** (1 / m2)
    return 10000 * (max(n - c1, 0) / (c2 - c3 * n)) ** (1 / m1)


def hlg(rgb):
    """ARIB STD-B67 / BT.2100: cd/m2 on a display of 1000 of three signals."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * math.log(4 * a)
    scene = [e * e / 3 if e <= 0.5 else (math.exp((e - c) / a) + b) / 12 for e in rgb]
    luminance = 0.2627 * scene[0] + 0.6780 * scene[1] + 0.0593 * scene[2]
    return [1000 * luminance**0.2 * e if e else 0.0 for e in scene]


def to_xyz(primaries):
    """SMPTE RP 177: the matrix from the chromaticities."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([D65[0] / D65[1], 1, (1 - D65[0] - D65[1]) / D65[1]])
    return columns * np.linalg.solve(columns, white)


def eetf(light, peak=1000, most=203):
    """BT.2390: steps 1 to 3 for black at 0."""
    e, limit = pq(light) / pq(peak), pq(most) / pq(peak)
    knee = 1.5 * limit - 0.5
    if e >= knee:
        t = (e - knee) / (1 - knee)
        e = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * limit
    return inverse_pq(e * pq(peak))


def expected(rgb, transfer):
    light = hlg(rgb) if transfer == HLG else [min(inverse_pq(e), 1000) for e in rgb]
    light = np.linalg.inv(to_xyz(BT709)) @ to_xyz(BT2020) @ np.array(light)
    light = light.clip(0, 1000)
    brightest = light.max()
    return (light * (eetf(brightest) / brightest if brightest else 0) / 203).clip(0, 1) ** (1 / 2.4)


COLOURS = [
    (0.0, 0.0, 0.0),
    (0.1, 0.1, 0.1),
    (0.5, 0.5, 0.5),
    (0.75, 0.75, 0.75),
    (1.0, 1.0, 1.0),
    (0.6, 0.5, 0.4),
    (0.3, 0.45, 0.6),
    (0.55, 0.55, 0.2),
    (0.7, 0.1, 0.1),
    (0.1, 0.7, 0.1),
    (0.1, 0.1, 0.7),
]


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize("rgb", COLOURS)
def test_formulas(transfer, rgb):
    found = tone_map(np.full((1, 1, 3), rgb, np.float32), transfer)[0, 0]
    want = expected(rgb, transfer)
    bright = want > 0.02  # a power of 1/2.4 magnifies what rounding leaves near black
    np.testing.assert_allclose(found[bright], want[bright], atol=1 / 255)
    assert (found[~bright] < 0.06).all()


@pytest.mark.parametrize(("transfer", "signal"), [(PQ, 0.5806888810416109), (HLG, 0.75)])
def test_reference_white(transfer, signal):
    """BT.2408: 203 cd/m2, 58 % of PQ and 75 % of HLG; BT.2390 brings it to 159 of the 203 of an SDR display."""
    light = inverse_pq(signal) if transfer == PQ else hlg([signal] * 3)[0]
    assert light == pytest.approx(203, abs=0.2)
    found = tone_map(np.full((1, 1, 3), signal, np.float32), transfer)
    np.testing.assert_allclose(found, (eetf(203) / 203) ** (1 / 2.4), atol=5e-4)
    np.testing.assert_allclose(found * 255, 230.3, atol=0.3)


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_greys_stay_grey_and_rise(transfer):
    ramp = np.arange(1024, dtype=np.float32)[None, :, None].repeat(3, 2) / 1023
    found = tone_map(ramp, transfer)[0]
    assert np.ptp(found, axis=-1).max() < 3e-4
    assert (np.diff(found[:, 1]) > -1e-4).all(), "1/40 of a step of 8 bits"
    assert found[0].max() == 0 and found[-1].max() <= 1 + 1e-6
    assert (np.diff(found[200:600, 1]) > 0).all()


def frame_of(rgb, transfer, full, pixels):
    """A flat frame of one colour in BT.2020 non-constant luminance, as 10-bit or 8-bit codes."""
    bits = 10 if "10" in pixels else 8
    y = float(np.dot([0.2627, 0.6780, 0.0593], rgb))
    u, v = (rgb[2] - y) / 1.8814, (rgb[0] - y) / 1.4746
    if full:
        codes = [y * (2**bits - 1), u * (2**bits - 1) + 2 ** (bits - 1), v * (2**bits - 1) + 2 ** (bits - 1)]
    else:
        unit = 2 ** (bits - 8)
        codes = [unit * (219 * y + 16), unit * (224 * u + 128), unit * (224 * v + 128)]
    sizes = (64 * 32, 32 * 16, 32 * 16)
    planes = np.concatenate([np.full(size, round(code)) for size, code in zip(sizes, codes, strict=True)])
    array = planes.reshape(48, 64).astype(np.uint16 if bits > 8 else np.uint8)
    frame = av.VideoFrame.from_ndarray(array, format=pixels)
    frame.colorspace, frame.color_range, frame.color_trc = 9, 2 if full else 1, transfer
    return frame


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("chroma", [420, 444])
@pytest.mark.parametrize("rgb", [(0.5, 0.5, 0.5), (0.75, 0.75, 0.75), (0.6, 0.5, 0.4), (0.4, 0.45, 0.6)])
def test_stored_pictures(transfer, full, chroma, rgb):
    frame = frame_of(rgb, transfer, full, "yuv420p10le")
    picture = decode(to_record(frame, geometry(frame, 1.0, 540), 100, chroma), 32, 64)
    np.testing.assert_allclose(picture, np.broadcast_to(255 * expected(rgb, transfer), picture.shape), atol=3)


def test_other_formats():
    """Unmarked matrices are BT.2020's; 8 bits and semi-planar frames are taken too."""
    rgb = (0.6, 0.5, 0.4)
    frame = frame_of(rgb, HLG, False, "yuv420p10le")
    record = to_record(frame, geometry(frame, 1.0, 540), 100)
    frame.colorspace = 2
    assert to_record(frame, geometry(frame, 1.0, 540), 100) == record
    eight = frame_of(rgb, HLG, False, "yuv420p")
    picture = decode(to_record(eight, geometry(eight, 1.0, 540), 100), 32, 64)
    np.testing.assert_allclose(picture, np.broadcast_to(255 * expected(rgb, HLG), picture.shape), atol=5)
    semi = frame_of(rgb, HLG, False, "yuv420p10le").reformat(format="p010le")
    semi.colorspace, semi.color_range, semi.color_trc = 9, 1, HLG
    assert to_record(semi, geometry(semi, 1.0, 540), 100) == record
