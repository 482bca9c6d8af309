"""Patches and masks against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ssljax.errors import InputError
from ssljax.ops.masking import mask_blocks, mask_by_noise, patch_statistics, patchify, unpatchify, visible_patches


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


BLOCKS = jax.jit(mask_blocks, static_argnames=("grid", "ratio"))


def drawn(count, grid, ratio, first=0):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(first, first + count))
    return jax.device_get(BLOCKS(keys, grid=grid, ratio=ratio))


def test_the_share_that_blocks_hide_is_uniform():
    blocks = drawn(2000, (14, 14), (0.1, 0.5))
    counts = blocks.hidden.sum(axis=1)
    numbers = np.arange(19, 99)  # 196 * 0.1 is 19.6, 196 * 0.5 is 98
    assert counts.min() == 19 and counts.max() in (97, 98)
    assert stats.kstest(counts, lambda x: np.clip((x + 1 - 19.6) / 78.4, 0, 1)).pvalue > 1e-3
    assert set(counts) <= set(numbers)
    for hidden, places, counted in zip(*blocks, strict=True):
        assert counted.sum() == hidden.sum()
        assert list(places[counted]) == list(np.flatnonzero(hidden))
        assert len(set(places)) == 98


def test_hidden_patches_lie_in_blocks():
    """A hidden patch has as many hidden neighbours as in masks laid by the released loop, not as in scattered ones."""
    hidden = drawn(2000, (14, 14), (0.3, 0.3)).hidden.reshape(-1, 14, 14)
    assert (hidden.sum(axis=(1, 2)) == 58).all()

    def agreement(hidden):
        """Return the share of pairs of neighbours, one of them hidden at least, of which both are."""
        pairs = [(hidden[:, 1:], hidden[:, :-1]), (hidden[:, :, 1:], hidden[:, :, :-1])]
        return sum((a & b).sum() for a, b in pairs) / sum((a | b).sum() for a, b in pairs)

    random = np.random.default_rng(0)
    loop = np.stack([lay_blocks_by_loop(random, 14, 58) for _ in range(1000)])
    assert loop.sum(axis=(1, 2)).mean() > 56
    np.testing.assert_allclose(agreement(hidden), agreement(loop), atol=0.02)
    scattered = random.permuted(hidden.reshape(-1, 196), axis=1).reshape(hidden.shape)
    assert agreement(hidden) > agreement(scattered) + 0.3


def lay_blocks_by_loop(random, side, wanted):
    """Return a mask as algorithm 1 of BEiT describes it: rectangles until enough is masked, none beyond."""
    mask = np.zeros((side, side), bool)
    for _ in range(200):
        left = wanted - mask.sum()
        if left == 0:
            break
        area, aspect = 4 + random.random() * (left - 4), np.exp(random.uniform(np.log(0.3), -np.log(0.3)))
        h, w = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if h < side and w < side:
            top, start = random.integers(side - h + 1), random.integers(side - w + 1)
            new = mask.copy()
            new[top : top + h, start : start + w] = True
            mask = new if new.sum() <= wanted else mask
    return mask


def test_a_mask_of_blocks_follows_its_key():
    together, alone = drawn(8, (4, 6), (0.1, 0.5)), drawn(2, (4, 6), (0.1, 0.5), first=3)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[3:5], b), together, alone)
    assert len({tuple(hidden) for hidden in together.hidden}) == 8


@pytest.mark.parametrize("ratio", [(0.0, 0.5), (0.5, 0.1), (0.1, 1.0), (0.01, 0.05)])
def test_ratios_that_blocks_cannot_have_are_told(ratio):
    with pytest.raises(InputError, match="mask_ratio"):
        mask_blocks(jax.random.split(jax.random.key(0), 2), (4, 4), ratio=ratio)
