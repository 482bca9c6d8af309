"""SimCLR and MoCo v3: losses against the golden formula in NumPy, their state, meshes, and what they refuse."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import logsumexp

from ssljax import mesh, optim, step
from ssljax.errors import InputError
from ssljax.models.heads import BatchNormMLP
from ssljax.models.pure import Pure
from ssljax.models.resnet import resnet
from ssljax.models.vit import ViT
from ssljax.objectives.mocov3 import MoCoV3
from ssljax.objectives.simclr import SimCLR, pair_metrics, two_views
from ssljax.ops import keys as rng
from ssljax.ops.augment import image_views

RESNET = functools.partial(resnet, 18, blocks=(1,), width_multiplier=0.25, stem="cifar")
VIT = functools.partial(ViT, image_size=8, patch_size=4, width=16, depth=1, heads=2)


def views(image, key):
    """Return two corners of an image with noise, and no local crops: quick to compile."""
    pixels = image / jnp.float32(255) - 0.5
    pixels += 0.1 * jax.random.normal(key, pixels.shape)
    return jnp.stack([pixels[:8, :8], pixels[-8:, -8:]]), jnp.zeros((0, 4, 4, 3))


def mlp(width, layers):
    return Pure(functools.partial(BatchNormMLP, width=width, hidden=16, outputs=8, layers=layers))


def make(kind, encoder=RESNET, **options):
    more = dict(views=views, size=12, temperature=0.2, encoder=Pure(encoder), projector=mlp(16, 2)) | options
    if kind is MoCoV3:
        more = dict(predictor=mlp(8, 2), momentum=lambda step: 0.9) | more
    return kind(**more)


def batch(n=8):
    images = np.random.default_rng(0).integers(0, 256, size=(n, 12, 12, 3), dtype=np.uint8)
    return {"image": jnp.asarray(images), "position": jnp.arange(n, dtype=jnp.uint32)}


def started(objective):
    """Return parameters in general position and the state: blocks start as shortcuts, and a ViT with all images alike.

    Alike, a batch norm divides by next to nothing, and rounding is all that is left.
    """
    params, state = objective.init(jax.random.key(0))
    wave = lambda x: 5 * x + 0.1 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)  # noqa: E731
    return jax.tree.map(wave, params), state


def seen(objective, key):
    """Return the two views that the objective makes of the batch."""
    keys = rng.per_sample(rng.named(key, "views"), batch()["position"])
    return jax.vmap(objective.views)(batch()["image"], keys)[0]


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_simclr_equals_its_formula():
    objective, key = make(SimCLR, block_size=5), jax.random.key(1)
    params, state = started(objective)
    out = jax.jit(objective.loss)(params, state, batch(), key, jnp.zeros((), jnp.int32))

    pairs = seen(objective, key)  # one batch of both views: 16 images share the batch norms' statistics
    images = jnp.concatenate([pairs[:, 0], pairs[:, 1]])
    output, statistics = objective.encoder.train(params["encoder"], images)
    z = unit(objective.projector.train(params["projector"], output.features)[0])
    similarities = z @ z.T / 0.2
    positives = similarities[np.arange(16), np.roll(np.arange(16), 8)]
    np.fill_diagonal(similarities, -np.inf)
    np.testing.assert_allclose(out.loss, np.mean(logsumexp(similarities, axis=-1) - positives), rtol=1e-5)

    after = objective.after_update(params, state, out.statistics, jnp.zeros((), jnp.int32))
    for kept, new in zip(jax.tree.leaves(after), jax.tree.leaves(statistics), strict=True):
        np.testing.assert_allclose(kept - 0.1 * new, 0.9 * np.round(kept - 0.1 * new), atol=1e-5)  # 0.9 of 0 or 1
    encoder = objective.encoders(params, after)["image"]
    assert np.isfinite(encoder(images).features).all()
    other = np.asarray(encoder(jnp.concatenate([images[:1], 9 * images[1:]])).features[0])
    np.testing.assert_allclose(encoder(images).features[0], other, atol=1e-6)  # no sample sees the batch


def test_mocov3_equals_its_formula():
    objective, key = make(MoCoV3, block_size=5), jax.random.key(1)
    params, state = started(objective)
    out = jax.jit(objective.loss)(params, state, batch(), key, jnp.zeros((), jnp.int32))
    assert set(state["teacher"]) == {"encoder", "projector"}

    pairs, queries, keys = seen(objective, key), [], []
    for i in range(2):
        for network, found in ((params, queries), (state["teacher"], keys)):
            output, _ = objective.encoder.train(network["encoder"], pairs[:, i])
            z, _ = objective.projector.train(network["projector"], output.features)
            found.append(z)
        queries[i] = objective.predictor.train(params["predictor"], queries[i])[0]
    expected = 0
    for q, k in ((queries[0], keys[1]), (queries[1], keys[0])):
        logits = unit(q) @ unit(k).T / 0.2
        expected += 2 * 0.2 * np.mean(logsumexp(logits, axis=-1) - np.diagonal(logits))
    np.testing.assert_allclose(out.loss, expected, rtol=1e-5)

    after = objective.after_update(params, state, out.statistics, jnp.zeros((), jnp.int32))
    kernel = lambda tree: np.asarray(tree["projector"]["fc1"]["kernel"])  # noqa: E731
    np.testing.assert_allclose(
        kernel(after["teacher"]), 0.9 * kernel(state["teacher"]) + 0.1 * kernel(params), rtol=1e-6
    )


@pytest.mark.parametrize(("kind", "encoder"), [(SimCLR, RESNET), pytest.param(MoCoV3, VIT, marks=pytest.mark.long)])
def test_eight_devices_give_one_devices_loss_gradient_and_statistics(kind, encoder):
    objective = make(kind, encoder, block_size=6)
    params, state = started(objective)

    def gradient(params, state, batch):
        def loss(params):
            out = objective.loss(params, state, batch, jax.random.key(1), jnp.zeros((), jnp.int32))
            return out.loss, out

        return jax.grad(loss, has_aux=True)(params)

    with jax.default_matmul_precision("highest"):
        one = jax.jit(gradient)(params, state, batch(16))
        devices = mesh.make_mesh("fsdp=4")
        with jax.set_mesh(devices):
            placed = jax.device_put((params, state), mesh.shardings((params, state), devices, min_size=64))
            rows = mesh.to_mesh(devices, jax.tree.map(np.asarray, batch(16)), 16)
            many = jax.jit(gradient)(*placed, rows)
    for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(b).max()))


def test_a_few_updates_bring_views_together():
    objective, optimizer = (
        make(SimCLR),
        optim.lars(learning_rate=optim.constant(value=2.0), weight_decay=optim.constant(value=1e-6)),
    )
    update = jax.jit(step.make_train_step(objective, optimizer, seed=0))
    params, state = objective.init(jax.random.key(0))
    current, seen = step.TrainState(jnp.zeros((), jnp.int32), params, state, optimizer.init(params)), []
    for _ in range(30):
        current, metrics = update(current, batch(16))
        seen.append(metrics)
    assert seen[-1]["loss"] < seen[0]["loss"] - 0.3
    assert seen[-1]["accuracy"] > 0.5
    assert jax.tree.map(jnp.shape, current.state) == jax.tree.map(jnp.shape, state)


def test_metrics_tell_collapse():
    random = np.random.default_rng(0)
    spread = random.normal(size=(256, 8)).astype(np.float32)
    metrics = pair_metrics(spread, spread, block_size=100)
    np.testing.assert_allclose(metrics["embedding_std"], 1, atol=0.05)
    np.testing.assert_allclose(metrics["embedding_norm"], np.linalg.norm(spread, axis=-1).mean(), rtol=1e-5)
    assert metrics["alignment"] == 0 and metrics["accuracy"] == 1
    collapsed = pair_metrics(0 * spread + 1, 0 * spread + 1, block_size=None)
    assert collapsed["accuracy"] == 0 and collapsed["embedding_std"] < 1e-3


@pytest.mark.parametrize("kind", [SimCLR, MoCoV3])
def test_bad_input_is_told(kind):
    def loss(objective, n=4):
        params, state = jax.eval_shape(objective.init, jax.random.key(0))
        return jax.eval_shape(objective.loss, params, state, batch(n), jax.random.key(0), jnp.zeros((), jnp.int32))

    with pytest.raises(InputError, match="batch of 2 or more"):
        loss(make(kind), 1)
    with pytest.raises(InputError, match=r"global_size is 16, but the images are 12.*data\.size"):
        loss(make(kind, views=functools.partial(image_views, global_size=16, locals=0)))
    with pytest.raises(InputError, match=r"3 local crops.*views\.locals=0"):
        loss(make(kind, views=functools.partial(image_views, global_size=8, local_size=4, locals=3)))
    with pytest.raises(InputError, match="global_scale"):
        loss(make(kind, views=functools.partial(image_views, global_size=8, locals=0, global_scale=(0.5, 1.5))))
    with pytest.raises(InputError, match="temperature is -1"):
        loss(make(kind, temperature=-1.0))
    with pytest.raises(InputError, match="norm_momentum is 1.5"):
        make(kind, norm_momentum=1.5)
    with pytest.raises(InputError, match="accumulate is 2"):
        step.make_train_step(make(kind), optax.sgd(1.0), seed=0, accumulate=2)
    if kind is MoCoV3:
        with pytest.raises(InputError, match="momentum is 2"):
            make(kind, momentum=lambda step: 2.0)


def test_views_are_the_asymmetric_ones():
    """Blur and solarisation with a probability of one in the second view, none in the first."""
    one = functools.partial(
        image_views,
        global_size=12,
        global_scale=(1.0, 1.0),
        locals=0,
        flip_probability=0.0,
        jitter_probability=0.0,
        grey_probability=0.0,
        global_blur_probabilities=(0.0, 1.0),
        global_solarise_probabilities=(0.0, 1.0),
    )
    images = jnp.full((3, 12, 12, 3), 255, jnp.uint8)  # white, which blurring leaves and solarisation turns black
    pairs = jax.jit(functools.partial(two_views, one))(images, jax.random.split(jax.random.key(0), 3))
    assert np.all(pairs[:, 0] > 2) and np.all(pairs[:, 1] < -1.5)


def test_objectives_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make(SimCLR).temperature = 1.0
