"""DINOv2's loss against loops in NumPy; its masks; one device against eight; two updates of the recipe."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pictures import make_folder

from data_prep import images
from ssljax import build, configuration, mesh, step
from ssljax.errors import InputError
from ssljax.models.heads import DINOHead
from ssljax.models.pure import Pure
from ssljax.models.vit import ViT
from ssljax.objectives.dinov2 import DINOv2
from ssljax.train import train

ENCODER = dict(image_size=16, patch_size=4, width=24, depth=2, heads=4, mask_token=True)
STEP = jnp.zeros((), jnp.int32)


def views(image, key):
    """Return two large parts of an image and two corners, with noise for the augmentation: quick to compile."""
    pixels = image / jnp.float32(255) - 0.5
    pixels += 0.1 * jax.random.normal(key, pixels.shape)
    return jnp.stack([pixels[:16, :16], pixels[-16:, -16:]]), jnp.stack([pixels[:8, :8], pixels[-8:, -8:]])


def head(prototypes):
    return Pure(functools.partial(DINOHead, width=24, hidden=16, bottleneck=8, prototypes=prototypes))


def make(encoder=(), own_head=False, **changed):
    return DINOv2(
        encoder=Pure(functools.partial(ViT, **(ENCODER | dict(encoder)))),
        head=head(32),
        patch_head=head(20) if own_head else None,
        **dict(views=views, size=20, momentum=lambda step: 0.9, teacher_temperature=lambda step: jnp.float32(0.06))
        | changed,
    )


def sample(b=6, first=0):
    pixels = np.random.default_rng(0).integers(0, 256, size=(first + b, 20, 20, 3), dtype=np.uint8)
    return {"image": jnp.asarray(pixels[first:]), "position": jnp.arange(first, first + b, dtype=jnp.uint32)}


def started(objective):
    """Return a student that differs from its teacher, and centres that are not zero."""
    params, state = jax.jit(objective.init)(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.02 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params)
    for name in ("center", "patch_center"):
        state[name] = jnp.linspace(-0.1, 0.1, state[name].size)
    return params, state


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def assign(logits, center, centering):
    """Return targets of the rows of logits: Sinkhorn-Knopp as SwAV's listing has it, or centred and sharpened."""
    if centering == "mean":
        return np.exp(log_softmax((logits - center) / 0.06))
    q = np.exp((logits - logits.max()) / 0.06).T
    for _ in range(3):
        q /= q.sum(axis=1, keepdims=True) * q.shape[0]
        q /= q.sum(axis=0, keepdims=True) * q.shape[1]
    return (q * q.shape[1]).T


def spread(cls):
    """Return KoLeo of each view's features [b, d], by loops."""
    unit = cls / np.linalg.norm(cls, axis=-1, keepdims=True)
    nearest = [min(np.linalg.norm(x - y) for j, y in enumerate(unit) if j != i) for i, x in enumerate(unit)]
    return -np.mean(np.log(nearest))


@pytest.mark.parametrize(
    ("centering", "own_head"), [pytest.param("sinkhorn", True, marks=pytest.mark.long), ("mean", False)]
)
def test_loss_equals_loops_over_views_and_patches(centering, own_head):
    objective, key, batch = make(own_head=own_head, centering=centering), jax.random.key(1), sample()
    params, state = started(objective)
    out = jax.jit(objective.loss)(params, state, batch, key, STEP)
    seen = jax.jit(objective.draw)(batch, key)
    hidden = np.asarray(seen.hidden)
    patch_head, role = (objective.patch_head, "patch_head") if own_head else (objective.head, "head")

    @jax.jit
    def run(network, view, mask=None):
        encoded = objective.encoder(network["encoder"], view, mask=mask)
        cls, patches = objective.head(network["head"], encoded.cls), patch_head(network[role], encoded.patches)
        return encoded.cls, cls, patches

    teachers = [run(state["teacher"], seen.large[:, view]) for view in range(2)]
    students = [run(params, seen.large[:, view], seen.hidden[:, view]) for view in range(2)]
    students += [run(params, seen.small[:, view]) for view in range(2)]
    teachers, students = jax.tree.map(lambda x: np.asarray(x, np.float64), (teachers, students))

    targets = assign(np.concatenate([t[1] for t in teachers]), np.asarray(state["center"]), centering).reshape(2, 6, -1)
    pairs = [(i, j) for i in range(2) for j in range(4) if i != j]
    cls_loss = np.mean([-(targets[i] * log_softmax(students[j][1] / 0.1)).sum(-1).mean() for i, j in pairs])

    rows = [(image, view, patch) for image, view, patch in np.argwhere(hidden)]
    logits = np.stack([teachers[view][2][image, patch] for image, view, patch in rows])
    patch_targets = assign(logits, np.asarray(state["patch_center"]), centering)
    of_view = np.zeros((6, 2))  # a view without hidden patches adds nothing
    for (image, view, patch), target in zip(rows, patch_targets, strict=True):
        prediction = log_softmax(students[view][2][image, patch] / 0.1)
        of_view[image, view] -= (target * prediction).sum() / hidden[image, view].sum()

    koleo = [spread(students[view][0]) for view in range(2)]
    np.testing.assert_allclose(out.metrics["cls_loss"], cls_loss, rtol=1e-5)
    np.testing.assert_allclose(out.metrics["patch_loss"], 2 * of_view.mean(), rtol=1e-5)
    np.testing.assert_allclose(out.metrics["koleo"], np.mean(koleo), rtol=1e-5)
    np.testing.assert_allclose(out.loss, cls_loss + of_view.mean() + 0.1 * sum(koleo), rtol=1e-5)
    np.testing.assert_allclose(out.metrics["masked_patches"], hidden.sum() / 6, rtol=1e-6)

    after = jax.jit(objective.after_update)(params, state, out.statistics, STEP)
    center = 0.9 * np.asarray(state["center"]) + 0.1 * np.mean([t[1] for t in teachers], axis=(0, 1))
    np.testing.assert_allclose(after["center"], center, rtol=1e-4, atol=1e-6)
    patch_center = 0.9 * np.asarray(state["patch_center"]) + 0.1 * logits.mean(axis=0)
    np.testing.assert_allclose(after["patch_center"], patch_center, rtol=1e-4, atol=1e-6)
    teacher = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, state["teacher"], params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8), after["teacher"], teacher)


def test_one_view_of_each_image_is_masked_by_its_position():
    objective, key = make(), jax.random.key(1)
    draw = jax.jit(objective.draw)
    seen = draw(sample(64), key)
    counts = np.asarray(seen.hidden).sum(axis=2)
    assert ((counts > 0).sum(axis=1) == 1).all()
    assert 16 < (counts[:, 0] > 0).sum() < 48  # 4 standard deviations of 64 fair coins
    for hidden, places, counted in zip(seen.hidden, seen.places, seen.counted, strict=True):
        assert list(np.asarray(places)[np.asarray(counted)]) == list(np.flatnonzero(hidden))
    later = draw(sample(2, first=62), key)
    np.testing.assert_array_equal(later.hidden, seen.hidden[62:])
    assert (np.asarray(draw(sample(64), jax.random.key(2)).hidden) != np.asarray(seen.hidden)).any()


@pytest.mark.long
def test_gradients_reach_the_student_and_nothing_else():
    objective = make(own_head=True)
    params, state = started(objective)

    def loss(params, state):
        return objective.loss(params, state, sample(), jax.random.key(1), STEP).loss

    to_params, to_state = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, state)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(to_state))
    assert all(np.all(np.isfinite(leaf)) and np.any(leaf) for leaf in jax.tree.leaves(to_params))


@pytest.mark.long
def test_two_updates_on_eight_devices_are_those_on_one():
    """Sinkhorn-Knopp and KoLeo see the whole batch, wherever its parts are; drop path and masks follow the sample."""

    def only_global_views(image, key):  # quicker to compile
        large, small = views(image, key)
        return large, small[:0]

    objective = make(encoder=dict(drop_path=0.2), own_head=True, views=only_global_views)
    optimizer = optax.adam(1e-3)

    def losses(devices):
        with jax.set_mesh(devices), jax.default_matmul_precision("highest"):
            state = step.initial_state(objective, optimizer, 0, devices)
            update = jax.jit(step.make_train_step(objective, optimizer, seed=0))
            values = []
            for number in range(2):
                batch = jax.device_get(sample(16, first=16 * number))
                state, metrics = update(state, mesh.to_mesh(devices, batch, 16))
                values.append([float(metrics[name]) for name in ("loss", "patch_loss", "koleo", "gradient_norm")])
        return np.asarray(values)

    one = losses(mesh.make_mesh("", jax.devices()[:1]))
    np.testing.assert_allclose(losses(mesh.make_mesh("data=2,fsdp=4")), one, rtol=1e-5)
    assert np.abs(one[0] - one[1]).min() > 1e-4


@pytest.mark.long
def test_the_recipe_trains_two_updates(tmp_path):
    make_folder(tmp_path / "raw", {"a": 12})
    assert images.main([str(tmp_path / "raw"), "--output", str(tmp_path / "data")]) == 0
    config = configuration.load("configs/dinov2.py:smoke", [f"--config.data.data={tmp_path / 'data'}"])
    config.unlock()
    config.views = {"name": f"{__name__}.views"}  # the recipe's own take long to compile
    state = train(config, tmp_path / "run")
    assert int(state.step) == 2
    rows = [json.loads(row) for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) and row["patch_loss"] > 0 for row in rows)
    encoder = build.restore(tmp_path / "run").objective.encoders(state.params, state.state)["image"]
    assert np.isfinite(encoder(np.zeros((1, 32, 32, 3), np.float32)).cls).all()


@pytest.mark.parametrize("variant", ["vitl16", "vitl14", "cifar10"])
def test_variants_can_be_built(variant):
    config = configuration.load(f"configs/dinov2.py:{variant}")
    objective = build.objective(config)
    assert (objective.patch_head is None) == (variant == "vitl16")
    assert not objective.accumulates_exactly
    abstract = jax.eval_shape(objective.init, jax.random.key(0))
    out = jax.eval_shape(objective.loss, *abstract, objective.batch_spec(2), jax.random.key(0), STEP)
    assert out.loss.shape == ()


def test_only_means_without_koleo_accumulate_exactly():
    assert make(centering="mean", koleo_weight=0.0).accumulates_exactly
    assert not make(centering="mean").accumulates_exactly
    assert not make(koleo_weight=0.0).accumulates_exactly


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (dict(centering="batch"), "centering is 'batch'"),
        (dict(encoder=dict(mask_token=False)), "mask_token=True"),
        (dict(mask_ratio=(0.5, 0.1)), "mask_ratio is"),
        (dict(mask_ratio=(0.01, 0.05)), "hides none of 16"),
    ],
)
def test_bad_values_are_told(arguments, told):
    with pytest.raises(InputError, match=told):
        make(**arguments)
