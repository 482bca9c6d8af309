"""Colours of patch features where their principal components are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ssljax.errors import InputError
from ssljax.models.pure import Pure, combine
from ssljax.models.resnet import resnet
from ssljax.objectives.base import Encoder
from ssljax.report.features import draw_features, patch_features, patch_side, principal_colours


def planted(shape=(10, 12), images=2, seed=0):
    """Features made of three orthonormal directions with uncorrelated amounts of deviation 9, 3 and 1."""
    random = np.random.default_rng(seed)
    count = images * shape[0] * shape[1]
    amounts = random.normal(size=(count, 3))
    amounts = np.linalg.qr(amounts - amounts.mean(0))[0] * count**0.5 * [9, 3, 1]
    directions = np.linalg.qr(random.normal(size=(16, 16)))[0][:3]
    features = (amounts @ directions + random.normal(size=16)).astype(np.float32)
    return list(features.reshape(images, *shape, 16)), amounts


def test_colours_are_the_amounts_of_the_three_directions():
    features, amounts = planted()
    colours = np.stack(principal_colours(features)).reshape(-1, 3).astype(int)
    low, high = np.percentile(amounts, (1, 99), axis=0)
    expected = 255 * np.clip((amounts - low) / (high - low), 0, 1)
    for channel in range(3):  # the sign of a component means nothing
        off = [np.abs(colours[:, channel] - way).max() for way in (expected[:, channel], 255 - expected[:, channel])]
        assert min(off) <= 1


def test_the_same_feature_has_the_same_colour_in_every_image():
    (one, other), _ = planted()
    colours = principal_colours([one, other, one[:5, :7]])
    np.testing.assert_array_equal(colours[0][:5, :7], colours[2])


def test_foreground_is_what_the_edges_are_not():
    (features, _), _ = planted()
    features = features / 30
    inside = np.zeros((10, 12), bool)
    inside[3:7, 3:9] = True
    direction = np.random.default_rng(1).normal(size=16)
    for sign in (1, -1):
        (colours,) = principal_colours([(features + sign * 5 * inside[..., None] * direction)], foreground=True)
        assert not colours[~inside].any()
        assert colours[inside].any(-1).mean() > 0.9


def test_every_colour_is_in_the_picture(tmp_path):
    features, _ = planted(images=5)
    draw_features([np.zeros((50, 60, 3), np.uint8)] * 5, features, tmp_path / "sheet.png", names=list("abcde"))
    with Image.open(tmp_path / "sheet.png") as sheet:
        shown = set(map(tuple, np.asarray(sheet).reshape(-1, 3).tolist()))
    assert set(map(tuple, np.concatenate(principal_colours(features)).reshape(-1, 3).tolist())) <= shown


def test_features_of_a_collapsed_encoder_are_grey():
    (colours,) = principal_colours([np.ones((4, 4, 8), np.float32)])
    assert np.all(colours == 128)


def test_too_few_patches_are_refused():
    with pytest.raises(InputError, match="no 3 principal components"):
        principal_colours([np.ones((1, 2, 8), np.float32)])


def test_a_resnets_patches_are_its_strides():
    model = Pure(functools.partial(resnet, 18, blocks=(1, 1), width_multiplier=0.125, stem="cifar"))
    params = model.init(jax.random.key(0))
    _, statistics = model.train(params, jnp.ones((1, 16, 16, 3)))
    encoder = Encoder(model, combine(params, statistics))
    assert patch_side(encoder, 16) == 2
    picture = np.random.default_rng(0).integers(0, 256, (16, 25, 3), dtype=np.uint8)
    (features,) = patch_features(encoder, [picture], size=16)
    assert features.shape == (8, 12, model.abstract.width)
