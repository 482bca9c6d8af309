"""DoRA against the released code's numbers, and its loss against a loop over frames and objects."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssljax.errors import InputError
from ssljax.models.heads import DINOHead
from ssljax.models.pure import Pure
from ssljax.models.vit import ViT
from ssljax.objectives.dora import DoRA, discover, highest, object_masks, track

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "dora_tracker.npz")


def views(frames, key):
    """Return the centre of each frame and two corners, with noise for the augmentation: quick to compile."""
    pixels = frames / jnp.float32(255) - 0.5
    pixels += 0.1 * jax.random.normal(key, pixels.shape)
    return pixels[:, 2:18, 2:18], jnp.stack([pixels[:, :8, :8], pixels[:, -8:, -8:]], axis=1)


def make(**changes):
    encoder = functools.partial(ViT, image_size=16, patch_size=4, width=24, depth=2, heads=4)
    return DoRA(
        encoder=Pure(encoder),
        head=Pure(functools.partial(DINOHead, width=24, hidden=16, bottleneck=8, prototypes=32)),
        views=views,
        frames=3,
        size=20,
        momentum=lambda step: 0.9,
        teacher_temperature=lambda step: 0.05,
        **changes,
    )


def batch(count, seed=0):
    frames = np.random.default_rng(seed).integers(0, 256, size=(count, 3, 20, 20, 3), dtype=np.uint8)
    return {"frames": jnp.asarray(frames), "position": jnp.arange(count, dtype=jnp.uint32) + 5}


def test_discover_equals_released_code():
    refined = discover(
        GOLDEN["cls_attention"], GOLDEN["queries"], GOLDEN["patches"], GOLDEN["heads"], epsilon=0.05, iterations=30
    )
    np.testing.assert_allclose(refined, GOLDEN["refined"], atol=1e-5)


def test_track_equals_released_code():
    np.testing.assert_allclose(track(GOLDEN["refined"], GOLDEN["keys"]), GOLDEN["maps"], atol=1e-5)


@pytest.mark.parametrize("threshold", ["frame", "batch"])
def test_masks_equal_released_code_exactly(threshold):
    masks = object_masks(GOLDEN["maps"], threshold=threshold)
    np.testing.assert_array_equal(masks, GOLDEN[f"masks_{threshold}_mean"].astype(bool))


def test_whole_tracker_equals_released_code_exactly():
    refined = discover(
        GOLDEN["cls_attention"], GOLDEN["queries"], GOLDEN["patches"], GOLDEN["heads"], epsilon=0.05, iterations=30
    )
    masks = object_masks(track(refined, GOLDEN["keys"]))
    np.testing.assert_array_equal(masks, GOLDEN["masks_frame_mean"].astype(bool))


def test_loss_equals_a_loop_over_frames_objects_and_crops():
    dora, clips, key = make(), batch(2), jax.random.key(1)
    params, state = dora.init(jax.random.key(0))
    # A student unlike its teacher and a centre unlike zero, so that no term hides.
    params = jax.tree.map(lambda x: x + 0.02 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params)
    state["center"] = jnp.linspace(-0.1, 0.1, 32)
    out = dora.loss(params, state, clips, key, jnp.zeros((), jnp.int32))

    large, small, _ = dora._views(clips, key)
    _, masks = dora.teach(state["teacher"]["encoder"], large, clips["position"], key)
    assert not masks.all()
    assert masks.any(axis=-1).all()

    def logits(network, images):
        return np.asarray(dora.head(network["head"], dora.encoder(network["encoder"], images).cls), np.float64)

    def log_softmax(x):
        return x - np.log(np.exp(x - x.max()).sum()) - x.max()

    total, sums = 0.0, []
    for b in range(2):
        for t in range(3):
            teacher = logits(state["teacher"], large[b, t][None])[0]
            sums.append(teacher)
            target = np.exp(log_softmax((teacher - np.asarray(state["center"])) / 0.05))
            object_losses, local_losses = [], []
            for k in range(3):
                pixels = np.kron(np.asarray(masks[b, t, k]).reshape(4, 4), np.ones((4, 4)))[..., None]
                masked = (large[b, t] * pixels).astype(jnp.float32)
                object_losses.append(-(target * log_softmax(logits(params, masked[None])[0] / 0.1)).sum())
            for crop in small[b, t]:
                local_losses.append(-(target * log_softmax(logits(params, crop[None])[0] / 0.1)).sum())
            total += (np.mean(object_losses) + np.mean(local_losses)) / 2
    np.testing.assert_allclose(out.loss, total / 6, rtol=1e-5)

    # The centre moves to the teacher's mean logits, and the teacher to the student.
    after = dora.after_update(params, state, out.statistics, jnp.zeros((), jnp.int32))
    np.testing.assert_allclose(
        after["center"], 0.9 * np.asarray(state["center"]) + 0.1 * np.mean(sums, axis=0), rtol=1e-4, atol=1e-6
    )
    moved = jax.tree.map(lambda t, s: 0.9 * t + 0.1 * s, state["teacher"], params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), after["teacher"], moved)


@pytest.mark.parametrize(
    "change",
    [
        {"sinkhorn": False},
        {"iterations": 3},
        {"epsilon": 0.5},
        {"masks": "attention"},
        {"masks": "random"},
        {"masks": "none"},
        pytest.param({"tracker_layer": 0}, marks=pytest.mark.long),
        {"heads_per": "batch"},
        {"objects": 1},
        {"threshold": "batch"},
    ],
    ids=str,
)
def test_each_ablation_changes_the_masks_and_trains(change):
    plain, changed, clips, key = make(), make(**change), batch(2), jax.random.key(1)
    params, state = plain.init(jax.random.key(0))
    # Attention that differs between heads and patches, which fresh weights hardly have.
    teacher = jax.tree.map(lambda x: x * 4.0, state["teacher"]["encoder"])
    large, _, _ = plain._views(clips, key)
    _, masks = plain.teach(teacher, large, clips["position"], key)
    _, others = changed.teach(teacher, large, clips["position"], key)
    assert masks.shape != others.shape or np.any(masks != others)
    gradients = jax.grad(lambda p: changed.loss(p, state, clips, key, jnp.zeros((), jnp.int32)).loss)(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_a_clip_is_treated_alike_in_any_batch():
    dora, clips, key = make(), batch(4), jax.random.key(1)
    params, state = dora.init(jax.random.key(0))
    step = jnp.zeros((), jnp.int32)
    whole = dora.loss(params, state, clips, key, step).loss
    parts = [dora.loss(params, state, jax.tree.map(lambda x, i=i: x[i::2], clips), key, step).loss for i in range(2)]
    np.testing.assert_allclose(whole, np.mean(parts), rtol=1e-6)


@pytest.mark.parametrize("mask_mode", ["drop", pytest.param("zero", marks=pytest.mark.long)])
def test_chunks_change_neither_loss_nor_gradient(mask_mode):
    clips, key, step = batch(2), jax.random.key(1), jnp.zeros((), jnp.int32)
    params, state = make().init(jax.random.key(0))

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(dora, params):
        def loss(params):
            out = dora.loss(params, state, clips, key, step)
            return 3 * out.loss, out  # a factor, so that it must reach the gradient

        return jax.grad(loss, has_aux=True)(params)

    whole = gradient(make(mask_mode=mask_mode), params)
    parts = gradient(make(mask_mode=mask_mode, chunks=3), params)
    assert optax.tree.norm(whole[0]) > 0.01
    # Sums in another order: close for the size of the leaf.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 + 1e-5 * np.abs(b).max()), parts, whole
    )


def test_dropping_keeps_the_highest_patches_of_each_map():
    dora, clips, key = make(mask_mode="drop", kept_share=0.4), batch(2), jax.random.key(1)
    params, state = dora.init(jax.random.key(0))
    large, small, drop_keys = dora._views(clips, key)
    teacher = jax.tree.map(lambda x: 30 * x, state["teacher"]["encoder"])  # maps that differ between patches
    out = dora.encoder(teacher, large.reshape(-1, 16, 16, 3), probe=-1)
    of_clips = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), out.probe)
    refined = discover(
        of_clips.cls_attention[:, 0],
        of_clips.queries[:, 0],
        out.patches.reshape(2, 3, 16, 24)[:, 0],
        dora._heads(key, clips["position"]),
        epsilon=0.05,
        iterations=30,
    )
    maps = np.asarray(track(refined, of_clips.keys))
    _, masks = dora.teach(teacher, large, clips["position"], key)
    cls = dora.study(params["encoder"], large, masks, small, drop_keys)
    for b, t, k in np.ndindex(2, 3, 3):
        best = np.argsort(-maps[b, t, k], kind="stable")[:6]  # 0.4 of 16 patches, rounded
        np.testing.assert_array_equal(np.flatnonzero(masks[b, t, k]), np.sort(best))
        alone = dora.encoder(params["encoder"], large[b, t][None], keep=jnp.asarray(np.sort(best))[None]).cls[0]
        np.testing.assert_allclose(cls[b, t, k], alone, rtol=1e-5, atol=1e-5)


def test_of_equal_scores_the_first_are_highest():
    np.testing.assert_array_equal(highest(jnp.array([1.0, 2.0, 1.0, 1.0]), 2), [True, True, False, False])


def test_heads_are_drawn_without_repetition_and_for_each_clip():
    dora = make()
    heads = np.asarray(dora._heads(jax.random.key(0), jnp.arange(50)))
    assert all(len(set(row)) == 3 for row in heads)
    assert len(np.unique(heads, axis=0)) > 10
    one = np.asarray(dataclasses.replace(dora, heads_per="batch")._heads(jax.random.key(0), jnp.arange(50)))
    assert len(np.unique(one, axis=0)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objects": 5}, "objects is 5.*has 4"),
        ({"objects": 0}, "objects is 0"),
        ({"masks": "magic"}, "tracked, attention, random, none"),
        ({"heads_per": "epoch"}, "heads_per"),
        ({"mask_mode": "blur"}, "zero.*drop"),
        ({"mask_mode": "drop", "masks": "none"}, "scores no patches"),
        ({"kept_share": 0.0}, "kept_share is 0.0"),
        ({"kept_share": 1.5}, "kept_share is 1.5"),
        ({"chunks": 2}, "divisor of the 3 frames"),
        ({"chunks": 0}, "divisor of the 3 frames"),
    ],
)
def test_bad_values_are_told(change, message):
    with pytest.raises(InputError, match=message):
        make(**change)


def test_unknown_threshold_is_told():
    with pytest.raises(InputError, match="threshold"):
        object_masks(GOLDEN["maps"], threshold="median")
