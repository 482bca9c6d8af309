"""Mixup, CutMix, random erasing and smoothed labels against their definitions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ssljax.ops.augment import normalise
from ssljax.ops.mixing import cut_mask, erase, mix, smoothed

CLASSES = 5
LABELS = np.arange(8) % CLASSES
IMAGES = np.random.default_rng(0).normal(size=(8, 12, 20, 3)).astype(np.float32)
TARGETS = smoothed(jnp.asarray(LABELS), CLASSES, 0.1)


def test_smoothing():
    """Szegedy et al. 2016: q = (1 - e) one-hot + e / K."""
    expected = np.full((8, CLASSES), 0.1 / CLASSES)
    expected[np.arange(8), LABELS] += 0.9
    np.testing.assert_allclose(TARGETS, expected, rtol=1e-6)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0), (0.0, 0.0)])
def test_targets_are_in_proportion_to_the_pixels(mixup, cutmix):
    """The share of each image's own pixels, measured on the mixture, is the share of its own target."""
    mixed = jax.jit(lambda key: mix(jnp.asarray(IMAGES), TARGETS, key, mixup=mixup, cutmix=cutmix))
    kinds = set()
    for number in range(20):
        images, targets = (np.asarray(x) for x in mixed(jax.random.key(number)))
        np.testing.assert_allclose(targets.sum(1), 1.0, rtol=1e-6)
        pasted = np.isclose(images, IMAGES[::-1], atol=0).all(-1)
        own = (images == IMAGES).all(-1)
        if (pasted | own).all():
            share = 1 - pasted.mean((1, 2))
            assert np.ptp(share) == 0
            kinds.add("cut" if pasted.any() and own.any() else "whole")
        else:  # least squares of the mixture on the pair gives mixup's share, for every image the same
            apart = (IMAGES - IMAGES[::-1]).reshape(8, -1)
            share = ((images - IMAGES[::-1]).reshape(8, -1) * apart).sum(1) / (apart**2).sum(1)
            assert np.ptp(share) < 1e-5
            kinds.add("mixed")
        expected = share[:, None] * np.asarray(TARGETS) + (1 - share[:, None]) * np.asarray(TARGETS)[::-1]
        np.testing.assert_allclose(targets, expected, atol=1e-5)
    assert kinds - {"whole"} == ({"mixed"} if mixup else set()) | ({"cut"} if cutmix else set())


def test_cut_boxes():
    """Sides sqrt(1 - share) of the image's around a uniform centre, cut off at the edges (Yun et al. 2019, eq. 2)."""
    height, width, share = 40, 60, 0.75
    masks = np.asarray(
        jax.vmap(lambda key: cut_mask(jnp.asarray(share), key, (height, width)))(
            jax.random.split(jax.random.key(0), 500)
        )
    )
    rows, columns = masks.any(2), masks.any(1)
    np.testing.assert_array_equal(masks, rows[:, :, None] & columns[:, None, :])
    assert rows.sum(1).max() == 20 and columns.sum(1).max() == 30
    inner = (~rows[:, [0, -1]]).all(1)
    assert set(rows[inner].sum(1)) == {20}
    # A uniform centre leaves the box whole vertically, with no edge touched, in half of the cases (binomial).
    assert stats.binomtest(int(inner.sum()), 500, 19 / 40).pvalue > 1e-4


def test_erasing():
    images = jnp.broadcast_to(normalise(jnp.zeros((1, 1, 3))), (16, 16, 3))
    keys = jax.random.split(jax.random.key(1), 2000)
    erased = np.asarray(jax.vmap(lambda key: erase(images, key, probability=0.25))(keys))
    changed = (erased != np.asarray(images)).any(-1)
    hit = changed.any((1, 2))
    assert stats.binomtest(int(hit.sum()), 2000, 0.25).pvalue > 1e-4
    rows, columns = changed[hit].any(2), changed[hit].any(1)
    np.testing.assert_array_equal(changed[hit], rows[:, :, None] & columns[:, None, :])  # a box
    area = changed[hit].mean((1, 2))
    assert area.min() > 0.01 and area.max() < 0.4  # 2 % to a third, sides rounded to pixels
    ratio = columns.sum(1) / rows.sum(1)
    assert ratio.min() > 0.15 and ratio.max() < 7
    assert stats.kstest(erased[hit][changed[hit]][:20000].ravel(), "norm").pvalue > 1e-4
    same = np.asarray(jax.vmap(lambda key: erase(images, key, probability=0.0))(keys[:10]))
    np.testing.assert_array_equal(same, np.broadcast_to(images, same.shape))
