"""Pictures open, have the size and the colours they should, and move."""

import numpy as np
import pytest
from PIL import Image

from ssljax.report.figures import draw_animation, draw_tracks
from ssljax.report.picture import colour_of, labelled_grid, overlay, resize_to


@pytest.fixture(scope="module")
def clip():
    """Five grey frames of 2 by 3 patches, and two objects: one patch that moves right, and the lower row."""
    frames = np.full((5, 16, 24, 3), 120, np.uint8)
    masks = np.zeros((5, 2, 2, 3), bool)
    for t in range(5):
        masks[t, 0, 0, t % 3] = True
    masks[:, 1, 1] = True
    masks = masks.reshape(5, 2, 6)
    return frames, masks / masks.sum(-1, keepdims=True), masks, (2, 3)


def read(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_overlay_colours_inside_dims_outside_and_outlines():
    frame = np.full((64, 96, 3), 100, np.uint8)
    mask = np.array([True, False, False, False, False, False])
    picture = overlay(frame, mask.astype(np.float64), mask, (2, 3), (255, 0, 0))
    np.testing.assert_array_equal(picture[60, 90], [30, 30, 30])
    assert picture[8, 8, 0] > 150
    assert picture[8, 8, 1] < 60
    np.testing.assert_array_equal(picture[10, 31], [255, 0, 0])
    np.testing.assert_array_equal(picture[10, 32], [30, 30, 30])


def test_a_whole_and_an_empty_mask_have_no_outline():
    frame = np.full((32, 32, 3), 100, np.uint8)
    whole = overlay(frame, np.zeros(4), np.ones(4, bool), (2, 2), (255, 0, 0))
    np.testing.assert_array_equal(whole, frame)
    empty = overlay(frame, np.zeros(4), np.zeros(4, bool), (2, 2), (255, 0, 0))
    np.testing.assert_array_equal(empty, np.full_like(frame, 30))


def test_resize_sets_the_short_side():
    assert resize_to(np.zeros((20, 50, 3), np.uint8), 40).shape == (40, 100, 3)
    assert resize_to(np.zeros((50, 20, 3), np.uint8), 10).shape == (25, 10, 3)


def test_grid_holds_each_image_whole():
    red, blue = np.full((20, 30, 3), [255, 0, 0], np.uint8), np.full((20, 40, 3), [0, 0, 255], np.uint8)
    sheet = np.asarray(labelled_grid([[red, blue], [blue]], row_names=["one", "two\nlines"], column_names=["a", "b"]))
    assert np.all(sheet == [255, 0, 0], axis=-1).sum() == red.size // 3
    assert np.all(sheet == [0, 0, 255], axis=-1).sum() == 2 * blue.size // 3


def test_tracks_picture_has_a_row_an_object_in_its_colour(clip, tmp_path):
    path = tmp_path / "tracks.png"
    draw_tracks(*clip, path, times=[8.0, 8.5, 9.0, 9.5, 10.0], columns=3)
    picture = read(path)
    for k in range(2):
        assert np.all(picture == colour_of(k), axis=-1).sum() > 500
    assert picture.shape[0] > 3 * 160
    assert picture.shape[1] > 3 * 240


def test_animation_has_every_frame_and_shows_the_object_move(clip, tmp_path):
    path = tmp_path / "tracks.gif"
    draw_animation(*clip, path, frames_per_second=10.0)
    with Image.open(path) as image:
        assert (image.n_frames, image.info["duration"], image.info["loop"]) == (5, 100, 0)
        lefts = []
        for t in range(3):
            image.seek(t)
            near = np.abs(np.asarray(image.convert("RGB"), int) - colour_of(0)).max(-1) < 12
            lefts.append(np.flatnonzero(near.any(0)).min())
    assert lefts[0] < lefts[1] < lefts[2]
