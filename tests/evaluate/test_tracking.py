"""Consistency of tracks where the right answer is known; tracking against the same equations in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax.errors import InputError
from ssljax.evaluate.tracking import consistency, fit_frames, overlap, track_objects
from ssljax.models.pure import Pure
from ssljax.models.vit import ViT
from ssljax.objectives.base import Encoder
from ssljax.ops.augment import normalise

FRAMES, SIDE, WIDTH = 6, 12, 32


def moving(objects=3, noise=0.0, seed=0):
    """Squares of 3 patches, each with its own feature, moving one patch a frame over a background with another."""
    random = np.random.default_rng(seed)
    kinds = np.linalg.qr(random.normal(size=(WIDTH, WIDTH)))[0][: objects + 1]
    masks = np.zeros((FRAMES, objects, SIDE, SIDE), bool)
    for t in range(FRAMES):
        for k in range(objects):
            masks[t, k, 4 * k : 4 * k + 3, t : t + 3] = True
    masks = masks.reshape(FRAMES, objects, -1)
    kind = np.where(masks.any(1), masks.argmax(1), objects)
    features = 5 + kinds[kind] + noise * random.normal(size=(FRAMES, SIDE * SIDE, WIDTH)) / WIDTH**0.5
    return features.astype(np.float32), masks


def perfect_region_score(objects=3):
    """Kinds are orthonormal and each object covers 9 of 144 patches: centred, c_k = e_k - sum of share_j e_j."""
    share = np.array([9 / 144] * objects + [1 - objects * 9 / 144])
    centred = np.eye(objects + 1) - share
    a, b = centred[0], centred[1]
    return 1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def test_perfect_tracks_score_one_by_patch_and_by_region_what_the_shared_centre_leaves():
    scores = consistency(*moving())
    assert scores.patch == 1.0
    np.testing.assert_allclose(scores.region, perfect_region_score(), atol=1e-5)


def test_tracks_with_some_noise_stay_high():
    scores = consistency(*moving(noise=0.5))
    assert scores.patch > 0.95
    assert scores.region > 0.95 * perfect_region_score()


def test_masks_drawn_by_chance_are_near_zero():
    features, masks = moving()
    shuffled = np.random.default_rng(1).random(masks.shape) < 0.2
    scores = consistency(features, shuffled)
    assert abs(scores.patch) < 0.1
    assert abs(scores.region) < 0.1


def test_tracks_that_swap_objects_are_negative():
    features, masks = moving(objects=2)
    masks[1::2] = masks[1::2, ::-1]
    scores = consistency(features, masks)
    assert scores.patch == -1.0
    np.testing.assert_allclose(scores.region, -perfect_region_score(2), atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 5.0, 1e4])
def test_a_collapsed_encoder_scores_nothing(offset):
    """All patches the same, but for rounding."""
    _, masks = moving()
    random = np.random.default_rng(2)
    features = offset * np.ones((FRAMES, SIDE * SIDE, WIDTH), np.float32)
    features += (1e-7 * offset * random.normal(size=(1, SIDE * SIDE, 1))).astype(np.float32)
    assert consistency(features, masks) == (0.0, 0.0)


def test_features_that_change_in_time_only_score_nothing():
    _, masks = moving()
    features = np.random.default_rng(3).normal(size=(FRAMES, 1, WIDTH)).astype(np.float32)
    scores = consistency(np.repeat(features, SIDE * SIDE, 1), masks)
    np.testing.assert_allclose(scores, 0.0, atol=1e-6)


def test_the_same_region_for_all_objects_scores_nothing():
    features, masks = moving()
    np.testing.assert_allclose(consistency(features, np.repeat(masks[:, :1], 3, 1)), 0.0, atol=1e-6)


def test_an_offset_shared_by_all_patches_changes_nothing():
    features, masks = moving(noise=0.5)
    np.testing.assert_allclose(consistency(features, masks), consistency(features + 3.0, masks), atol=1e-5)


def test_following_beats_standing_still():
    features, masks = moving()
    still = np.broadcast_to(masks[:1], masks.shape)
    assert consistency(features, masks).region > consistency(features, still).region + 0.2
    assert consistency(features, masks).patch > consistency(features, still).patch + 0.2


def test_empty_regions_are_left_out():
    features, masks = moving()
    masks[2, 1] = False
    assert consistency(features, masks).patch == 1.0
    assert consistency(features, np.zeros_like(masks)) == (0.0, 0.0)


def test_consistency_needs_something_to_compare():
    features, masks = moving()
    with pytest.raises(InputError, match="1 regions in 6 frames"):
        consistency(features, masks[:, :1])
    with pytest.raises(InputError, match="3 regions in 1 frames"):
        consistency(features[:1], masks[:1])


def test_overlap_is_intersection_over_union():
    masks = np.zeros((2, 3, 8), bool)
    masks[:, 0, :4] = masks[:, 1, 2:6] = masks[:, 2, 2:6] = True
    np.testing.assert_allclose(overlap(masks), (2 / 6 + 2 / 6 + 1) / 3)
    assert overlap(np.zeros((2, 2, 8), bool)) == 0.0
    with pytest.raises(InputError, match="1 regions"):
        overlap(masks[:, :1])


@pytest.mark.parametrize(("shape", "size"), [((30, 50), 24), ((50, 30), 24), ((20, 20), 40), ((272, 640), 96)])
def test_fitted_frames_are_whole_patches_of_the_middle(shape, size):
    ramp = np.linspace(0, 255, shape[1])[None, None, :, None]
    frames = np.broadcast_to(ramp, (2, *shape, 3)).astype(np.uint8)
    fitted = fit_frames(frames, size=size, patch_size=8)
    assert min(fitted.shape[1:3]) == size
    assert fitted.shape[1] % 8 == fitted.shape[2] % 8 == 0
    assert abs(float(fitted[0, 0, 0, 0]) - (255.0 - float(fitted[0, 0, -1, 0]))) < 6  # as much cut on either side


def test_a_size_below_one_patch_is_refused():
    with pytest.raises(InputError, match="less than one patch"):
        fit_frames(np.zeros((1, 20, 20, 3), np.uint8), size=4, patch_size=8)


@pytest.fixture(scope="module")
def encoder():
    model = Pure(functools.partial(ViT, image_size=32, patch_size=8, width=24, depth=2, heads=3))
    return Encoder(model, model.init(jax.random.key(0)))


def test_tracks_follow_the_equations(encoder):
    """The paper's equations in float64, from the encoder's own probe, frames in one batch."""
    frames = np.random.default_rng(4).integers(0, 256, (10, 24, 32, 3), dtype=np.uint8)
    tracks = track_objects(encoder, frames, [2, 0])
    out = encoder(normalise(jnp.asarray(frames, jnp.float32) / 255), probe=-1)
    attention, queries, keys = (np.asarray(x, np.float64) for x in out.probe)
    patches = np.asarray(out.patches, np.float64)
    unit = patches[0] / np.linalg.norm(patches[0], axis=-1, keepdims=True)
    prototypes = attention[0, [2, 0]] @ np.concatenate(list(queries[0]), -1)
    plan = np.exp(unit @ prototypes.T / 0.05)
    for _ in range(30):
        plan /= plan.sum(0, keepdims=True) * 2
        plan /= plan.sum(1, keepdims=True) * len(plan)
    refined = (plan / plan.sum(1, keepdims=True)).T @ unit
    logits = np.stack([refined @ np.concatenate(list(k), -1).T for k in keys]) / 24**0.5
    maps = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

    assert tracks.grid == (3, 4)
    np.testing.assert_allclose(tracks.features, patches, atol=1e-5)
    np.testing.assert_allclose(tracks.maps, maps, atol=1e-6)
    clear = np.abs(maps - maps.mean(-1, keepdims=True)) > 1e-6
    np.testing.assert_array_equal(tracks.masks[clear], (maps > maps.mean(-1, keepdims=True))[clear])


def test_heads_that_the_encoder_lacks_are_refused(encoder):
    with pytest.raises(InputError, match="heads are 0 to 2"):
        track_objects(encoder, np.zeros((2, 16, 16, 3), np.uint8), [0, 3])
