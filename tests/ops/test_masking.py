"""Patches and masks against loops in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from ssljax.errors import InputError
from ssljax.ops.masking import mask_by_noise, patch_statistics, patchify, unpatchify, visible_patches


def test_the_patches_of_least_noise_are_seen():
    noise = np.random.default_rng(0).random((5, 12), np.float32)
    masking = mask_by_noise(noise, visible=3)
    for row, (keep, order, hidden) in enumerate(zip(*masking, strict=True)):
        expected = sorted(range(12), key=lambda patch: noise[row, patch])
        assert list(keep) == expected[:3]
        assert [expected.index(patch) for patch in range(12)] == list(order)
        assert set(np.flatnonzero(hidden)) == set(expected[3:])


def test_every_patch_is_hidden_as_often():
    noise = np.random.default_rng(0).random((4000, 16), np.float32)
    shares = np.asarray(mask_by_noise(noise, visible=4).hidden).mean(axis=0)
    np.testing.assert_allclose(shares, 0.75, atol=0.03)  # 4 standard deviations of a mean of 4000


@pytest.mark.parametrize(("patches", "ratio", "visible"), [(196, 0.75, 49), (196, 0.9, 19), (20, 0.9, 2), (3, 0.5, 1)])
def test_count_of_visible_patches(patches, ratio, visible):
    assert visible_patches(patches, ratio) == visible


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5])
def test_ratios_outside_are_told(ratio):
    with pytest.raises(InputError, match="between 0 and 1"):
        visible_patches(16, ratio)


@pytest.mark.parametrize(("patches", "ratio", "told"), [(4, 0.9, "0 to see and 4"), (1, 0.5, "0 to see and 1")])
def test_too_few_patches_are_told(patches, ratio, told):
    with pytest.raises(InputError, match=told):
        visible_patches(patches, ratio)


def test_patches_are_cut_row_by_row():
    images = np.random.default_rng(0).normal(size=(2, 3, 8, 12, 3)).astype(np.float32)
    patches = np.asarray(patchify(images, 4))
    for row in range(2):
        for column in range(3):
            part = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            np.testing.assert_array_equal(patches[:, :, 3 * row + column], part.reshape(2, 3, -1))
    np.testing.assert_array_equal(unpatchify(patches, (2, 3)), images)


def test_statistics_are_numpys_with_the_unbiased_variance():
    patches = np.random.default_rng(0).normal(2.0, 3.0, size=(2, 5, 12)).astype(np.float32)
    mean, deviation = patch_statistics(jnp.asarray(patches))
    np.testing.assert_allclose(mean[..., 0], patches.mean(-1), rtol=1e-5)
    np.testing.assert_allclose(deviation[..., 0], np.sqrt(patches.var(-1, ddof=1) + 1e-6), rtol=1e-5)
