"""DINO's loss against a loop over pairs of views."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import build, configuration
from ssljax.models.heads import DINOHead
from ssljax.models.pure import Pure
from ssljax.models.vit import ViT
from ssljax.objectives.dino import DINO
from ssljax.ops import keys as rng


def views(image, key):
    """Return two large parts of an image and three corners, with noise for the augmentation: quick to compile."""
    pixels = image / jnp.float32(255) - 0.5
    pixels += 0.1 * jax.random.normal(key, pixels.shape)
    corners = [pixels[:8, :8], pixels[-8:, -8:], pixels[:8, -8:]]
    return jnp.stack([pixels[:16, :16], pixels[4:, 4:]]), jnp.stack(corners)


def make():
    return DINO(
        encoder=Pure(functools.partial(ViT, image_size=16, patch_size=4, width=24, depth=2, heads=4)),
        head=Pure(functools.partial(DINOHead, width=24, hidden=16, bottleneck=8, prototypes=32)),
        views=views,
        size=20,
        momentum=lambda step: 0.9,
        teacher_temperature=lambda step: 0.05,
    )


def test_loss_equals_a_loop_over_pairs_of_views():
    dino, key = make(), jax.random.key(1)
    images = np.random.default_rng(0).integers(0, 256, size=(4, 20, 20, 3), dtype=np.uint8)
    batch = {"image": jnp.asarray(images), "position": jnp.arange(4, dtype=jnp.uint32)}
    params, state = dino.init(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.02 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params)
    state["center"] = jnp.linspace(-0.1, 0.1, 32)
    out = dino.loss(params, state, batch, key, jnp.zeros((), jnp.int32))

    large, small = jax.vmap(dino.views)(batch["image"], rng.per_sample(rng.named(key, "views"), batch["position"]))

    def logits(network, view):
        return np.asarray(dino.head(network["head"], dino.encoder(network["encoder"], view).cls), np.float64)

    def log_softmax(x):
        return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))

    views = [large[:, 0], large[:, 1], small[:, 0], small[:, 1], small[:, 2]]
    students = [log_softmax(logits(params, view) / 0.1) for view in views]
    teachers = [logits(state["teacher"], view) for view in views[:2]]
    targets = [np.exp(log_softmax((teacher - np.asarray(state["center"])) / 0.05)) for teacher in teachers]
    pairs = [(q, s) for i, q in enumerate(targets) for j, s in enumerate(students) if i != j]
    expected = np.mean([-(q * s).sum(axis=-1).mean() for q, s in pairs])
    np.testing.assert_allclose(out.loss, expected, rtol=1e-5)
    entropy = np.mean([-(q * np.log(q)).sum(axis=-1) for q in targets])
    np.testing.assert_allclose(out.metrics["teacher_entropy"], entropy, rtol=1e-5)
    np.testing.assert_allclose(out.metrics["kl"], expected - entropy, rtol=1e-4)

    after = dino.after_update(params, state, out.statistics, jnp.zeros((), jnp.int32))
    center = 0.9 * np.asarray(state["center"]) + 0.1 * np.mean(teachers, axis=(0, 1))
    np.testing.assert_allclose(after["center"], center, rtol=1e-4, atol=1e-6)


def test_a_collapsed_teacher_carries_no_information():
    dino, key = make(), jax.random.key(1)
    images = np.random.default_rng(0).integers(0, 256, size=(8, 20, 20, 3), dtype=np.uint8)
    batch = {"image": jnp.asarray(images), "position": jnp.arange(8, dtype=jnp.uint32)}
    params, state = dino.init(jax.random.key(0))
    state["center"] = jnp.zeros(32).at[3].set(-100.0)  # one prototype always wins
    out = dino.loss(params, state, batch, key, jnp.zeros((), jnp.int32))
    np.testing.assert_allclose(out.metrics["teacher_information"], 0, atol=1e-6)


@pytest.mark.parametrize(("variant", "locals", "pixels"), [("images", 10, 96), ("cifar10", 0, 16)])
def test_variants_on_images_have_the_shapes_that_they_say(variant, locals, pixels):
    config = configuration.load(f"configs/dino.py:{variant}")
    objective = build.objective(config)
    image = jax.ShapeDtypeStruct((config.data.size,) * 2 + (3,), np.uint8)
    large, small = jax.eval_shape(objective.views, image, jax.random.key(0))
    assert large.shape == (2, config.views.global_size, config.views.global_size, 3)
    assert small.shape == (locals, pixels, pixels, 3)
    build.optimizer(config)
