"""Colour operations against Pillow and colorsys; colour jitter against its definition, for every order."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from ssljax.ops import colour

LEVEL = 1 / 255


@pytest.fixture(scope="module")
def pixels():
    """A uint8 image with saturated, grey, black and white pixels among random ones."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    pixels[0] = pixels[0, :, :1]
    pixels[1], pixels[2] = 0, 255
    pixels[3] = [255, 0, 0]
    pixels[4, :, 1] = pixels[4, :, 0]
    return pixels


@pytest.fixture(scope="module")
def image(pixels):
    return jnp.asarray(pixels, jnp.float32) / 255


def test_greyscale_is_pillows(pixels, image):
    expected = np.asarray(Image.fromarray(pixels).convert("L"), np.float32) / 255
    grey = colour.greyscale(image)
    assert grey.shape == image.shape
    for channel in range(3):
        np.testing.assert_allclose(grey[..., channel], expected, atol=0.51 * LEVEL)


# Pillow rounds its result to 8 bits, and before that the mean luma (contrast) or each luma (saturation).
@pytest.mark.parametrize(
    ("adjust", "enhance", "levels"),
    [
        (colour.adjust_brightness, ImageEnhance.Brightness, 1.01),
        (colour.adjust_contrast, ImageEnhance.Contrast, 1.51),
        (colour.adjust_saturation, ImageEnhance.Color, 1.51),
    ],
)
@pytest.mark.parametrize("ratio", [0.0, 0.6, 1.0, 1.4])
def test_blends_are_pillows(pixels, image, adjust, enhance, levels, ratio):
    expected = np.asarray(enhance(Image.fromarray(pixels)).enhance(ratio), np.float32) / 255
    np.testing.assert_allclose(adjust(image, jnp.float32(ratio)), expected, atol=levels * LEVEL)


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.03, 0.1, 0.5])
def test_hue_is_colorsys(image, shift):
    expected = []
    for pixel in np.asarray(image, np.float64).reshape(-1, 3):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        expected.append(colorsys.hsv_to_rgb((hue + shift) % 1.0, saturation, value))
    result = colour.adjust_hue(image, jnp.float32(shift))
    np.testing.assert_allclose(result, np.reshape(expected, image.shape), atol=2e-6)


def test_solarise_is_pillows(pixels, image):
    expected = np.asarray(ImageOps.solarize(Image.fromarray(pixels), 128), np.float32) / 255
    np.testing.assert_allclose(colour.solarise(image), expected, atol=1e-6)


def test_every_order_of_the_jitter_is_the_operations_one_after_another(image):
    ratios, shift = jnp.asarray([1.35, 0.7, 1.3]), jnp.float32(0.08)
    operations = [
        lambda x: colour.adjust_brightness(x, ratios[0]),
        lambda x: colour.adjust_contrast(x, ratios[1]),
        lambda x: colour.adjust_saturation(x, ratios[2]),
        lambda x: colour.adjust_hue(x, shift),
    ]
    orders = list(itertools.permutations(range(4)))
    mapped = jax.jit(jax.vmap(colour.adjust_colour, in_axes=(None, None, None, 0)))
    results = mapped(image, ratios, shift, jnp.asarray(orders))
    for order, result in zip(orders, results, strict=True):
        expected = image
        for operation in order:
            expected = operations[operation](expected)
        np.testing.assert_allclose(result, expected, atol=5e-6, err_msg=str(order))
    assert len({np.asarray(r).tobytes() for r in results}) == 24


def test_jitter_draws_ratios_hue_and_order_uniformly(monkeypatch):
    """Observe what the jitter draws: 24 equally likely orders, ratios and shifts that fill their intervals."""

    def spy(image, ratios, shift, order):
        return ratios, shift, order

    monkeypatch.setattr(colour, "adjust_colour", spy)
    jitter = getattr(colour.colour_jitter, "__wrapped__", colour.colour_jitter)
    draw = jax.jit(jax.vmap(lambda draws: jitter(jnp.zeros((1, 1, 3)), draws, strength=(0.4, 1.5, 0.2, 0.1))))
    number = 24_000
    ratios, shift, order = jax.device_get(draw(jax.random.uniform(jax.random.key(0), (number, colour.JITTER_DRAWS))))

    _, counts = np.unique(order, axis=0, return_counts=True)
    assert len(counts) == 24
    # Chi-square with 23 degrees of freedom: 49.7 is passed by one draw in a thousand.
    assert np.sum((counts - number / 24) ** 2 / (number / 24)) < 49.7
    intervals = [(0.6, 1.4), (0.0, 2.5), (0.8, 1.2), (-0.1, 0.1)]
    for values, (low, high) in zip([*ratios.T, shift], intervals, strict=True):
        positions = np.sort((values - low) / (high - low))
        assert positions[0] >= -1e-6
        assert positions[-1] <= 1 + 1e-6
        # Kolmogorov-Smirnov: 1.95 / sqrt(n) is passed by one draw in a thousand.
        assert np.max(np.abs(positions - np.linspace(0, 1, number))) < 1.95 / np.sqrt(number)


def test_jitter_with_strength_zero_changes_nothing_and_otherwise_stays_in_range(image):
    draws = jax.random.uniform(jax.random.key(1), (colour.JITTER_DRAWS,))
    still = colour.colour_jitter(image, draws, strength=(0.0, 0.0, 0.0, 0.0))
    np.testing.assert_allclose(still, image, atol=2e-6)
    moved = colour.colour_jitter(image, draws, strength=(0.4, 0.4, 0.2, 0.1))
    assert np.abs(moved - image).max() > 0.01
    assert moved.min() >= 0
    assert moved.max() <= 1
