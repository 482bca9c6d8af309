"""Tiles against one JPEG of the whole frame, which libjpeg-turbo encodes and decodes by itself."""

import cv2
import numpy as np
import pytest
import simplejpeg

from ssljax.data.tiles import TILE, decode, edges, encode

HEIGHT, WIDTH = 412, 610  # neither is whole blocks


@pytest.fixture(scope="module", params=[2, 1], ids=["4:2:0", "4:4:4"])
def planes(request):
    random = np.random.default_rng(0)
    sizes = [(HEIGHT, WIDTH), *[(HEIGHT // request.param, WIDTH // request.param)] * 2]
    return [
        cv2.resize(random.integers(0, 256, (h // 5, w // 5), np.uint8), (w, h), interpolation=cv2.INTER_CUBIC)
        for h, w in sizes
    ]


def whole(planes, **options):
    return simplejpeg.decode_jpeg(simplejpeg.encode_jpeg_yuv_planes(*planes, quality=85), **options)


@pytest.mark.parametrize("side", [2, 16, 18, 128, 272, 540, 960, 1080, 3840])
@pytest.mark.parametrize("tile", TILE)
def test_edges(side, tile):
    found = edges(side, tile)
    assert found[0] == 0 and found[-1] == side and (found[:-1] % 16 == 0).all()
    sizes = np.diff(found)
    assert (sizes > 0).all() and len(sizes) == max(1, round(side / tile))
    assert np.ptp(sizes) <= 32


def test_as_one_jpeg_but_for_the_chroma_beside_an_edge(planes):
    got, expected = decode(encode(planes, 85), HEIGHT, WIDTH), whole(planes)
    assert got.shape == (HEIGHT, WIDTH, 3)
    beside = np.zeros((HEIGHT, WIDTH), bool)
    if planes[1].shape != planes[0].shape:  # nothing is smoothed at full chroma
        for edge in edges(HEIGHT, TILE[0])[1:-1]:
            beside[edge - 1 : edge + 1] = True
        for edge in edges(WIDTH, TILE[1])[1:-1]:
            beside[:, edge - 1 : edge + 1] = True
        assert beside.mean() < 0.03
    np.testing.assert_array_equal(got[~beside], expected[~beside])


def test_smaller_as_one_jpeg_is(planes):
    grey = [planes[0], *[np.full_like(plane, 128) for plane in planes[1:]]]
    record = encode(grey, 85)
    for factor in (1, 2, 4, 8):
        size = dict(min_height=-(-HEIGHT // factor), min_width=-(-WIDTH // factor), min_factor=2 if factor > 1 else 1)
        np.testing.assert_array_equal(decode(record, HEIGHT, WIDTH, factor=factor), whole(grey, **size))


@pytest.mark.parametrize("factor", [1, 2])
def test_a_box_is_that_part_of_the_frame(planes, factor):
    record, random = encode(planes, 85), np.random.default_rng(1)
    picture = decode(record, HEIGHT, WIDTH, factor=factor)
    for _ in range(50):
        h, w = int(random.integers(1, HEIGHT + 1)), int(random.integers(1, WIDTH + 1))
        top, left = int(random.integers(HEIGHT - h + 1)), int(random.integers(WIDTH - w + 1))
        got = decode(record, HEIGHT, WIDTH, (top, left, h, w), factor)
        rows, columns = round(top / factor), round(left / factor)
        np.testing.assert_array_equal(got, picture[rows : rows + got.shape[0], columns : columns + got.shape[1]])
        assert abs(got.shape[0] - h / factor) <= 1 and abs(got.shape[1] - w / factor) <= 1


def test_what_is_no_record(planes):
    record = encode(planes, 85)
    for damaged in (b"", record[:10], record[: len(record) // 2], bytes(len(record))):
        with pytest.raises(ValueError):  # noqa: PT011
            decode(damaged, HEIGHT, WIDTH)
