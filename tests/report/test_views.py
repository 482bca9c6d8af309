"""Contact sheets show every view, denormalised."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ssljax.ops.augment import normalise
from ssljax.report.views import draw_clip_views, draw_image_views, masked_view, to_pixels


def coloured(*shape):
    """Normalised images of different plain colours, and the colours."""
    colours = np.random.default_rng(0).integers(0, 256, (int(np.prod(shape[:-3])), 3), dtype=np.uint8)
    images = np.broadcast_to(colours[:, None, None], (len(colours), *shape[-3:])).reshape(shape)
    return images, np.asarray(normalise(jnp.asarray(images, jnp.float32) / 255)), colours


def test_pixels_are_the_inverse_of_normalise():
    pixels, normalised, _ = coloured(2, 3, 8, 8, 3)
    np.testing.assert_array_equal(to_pixels(normalised), pixels)


def test_masked_view_keeps_its_patches_and_shows_the_mean_colour_elsewhere():
    pixels, normalised, _ = coloured(1, 8, 8, 3)
    view = to_pixels(masked_view(normalised[0], np.array([True, False, False, True])))
    np.testing.assert_array_equal(view[:4, :4], pixels[0, :4, :4])
    np.testing.assert_array_equal(view[4:, :4], np.broadcast_to([124, 116, 104], (4, 4, 3)))


@pytest.mark.parametrize("objects", [0, 2])
def test_clip_sheet_shows_each_view_of_the_frames_asked_for(tmp_path, objects):
    canvas, _, canvas_colours = coloured(2, 4, 16, 16, 3)
    _, large, _ = coloured(2, 4, 12, 12, 3)
    _, small, small_colours = coloured(2, 4, 5, 6, 6, 3)
    masks = np.ones((2, 4, objects, 9), bool) if objects else None
    draw_clip_views(canvas, large, masks, small, tmp_path / "views.png", frames=3)
    with Image.open(tmp_path / "views.png") as image:
        sheet = np.asarray(image.convert("RGB"))
    seen = {tuple(colour) for colour in sheet.reshape(-1, 3)}
    shown = [*canvas_colours[:3], *canvas_colours[4:7], *small_colours[:15], *small_colours[20:35]]
    assert {tuple(colour) for colour in shown} <= seen
    assert sheet.shape[1] > 144 * (2 + objects + 5)
    assert sheet.shape[0] > 144 * 6


def test_image_sheet_has_a_row_an_image(tmp_path):
    canvas, _, _ = coloured(2, 16, 16, 3)
    _, large, _ = coloured(2, 2, 12, 12, 3)
    _, small, _ = coloured(2, 3, 6, 6, 3)
    draw_image_views(canvas, large, small, tmp_path / "views.png")
    with Image.open(tmp_path / "views.png") as image:
        width, height = image.size
    assert width > 144 * 6
    assert height > 144 * 2
