"""Schedules against the formulas of the DINO code, AdamW, LARS and clipping against their rules in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssljax import optim
from ssljax.errors import InputError
from ssljax.models.heads import BatchNormMLP
from ssljax.models.pure import Pure
from ssljax.models.resnet import resnet
from ssljax.models.vit import vit


def test_cosine_equals_dinos_formula():
    base, final, epochs, warmup, per_epoch = 5e-4, 1e-5, 10, 3, 7
    iterations = np.arange(epochs * per_epoch - warmup * per_epoch)
    expected = np.concatenate(
        [
            np.linspace(0, base, warmup * per_epoch, endpoint=False),
            final + 0.5 * (base - final) * (1 + np.cos(np.pi * iterations / len(iterations))),
        ]
    )
    schedule = optim.cosine(start=base, end=final, steps=epochs * per_epoch, warmup_steps=warmup * per_epoch)
    np.testing.assert_allclose([schedule(i) for i in range(70)], expected, rtol=1e-5, atol=1e-10)
    np.testing.assert_allclose(schedule(1000), final, rtol=1e-5)


def test_linear_and_constant():
    linear = optim.linear(start=0.04, end=0.07, steps=30)
    np.testing.assert_allclose([linear(0), linear(10), linear(30), linear(99)], [0.04, 0.05, 0.07, 0.07], rtol=1e-6)
    assert float(optim.constant(value=0.5)(3)) == 0.5


def test_warmup_longer_than_the_run_is_told():
    with pytest.raises(InputError, match="warm-up"):
        optim.cosine(start=1.0, end=0.0, steps=10, warmup_steps=10)


def tree(rng, layers=None):
    lead = () if layers is None else (layers,)
    return {
        "blocks": {"fc": {"kernel": rng.normal(size=(*lead, 3, 4)), "bias": rng.normal(size=(*lead, 4))}},
        "head": {"last": {"kernel": rng.normal(size=(4, 5))}},
    }


def run(transform, params, gradients):
    """Apply the transform to a list of gradients, returning the parameters after each."""
    state, after = transform.init(params), []
    for gradient in gradients:
        updates, state = transform.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        after.append(params)
    return after


def as_float32(value):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), value)


def reference_adamw(param, gradients, rates, decays, clip, frozen_until=0):
    """PyTorch's AdamW on one parameter after DINO's clip_gradients; its step count starts with its first update."""
    m = v = np.zeros_like(param)
    count = 0
    for i, gradient in enumerate(gradients):
        gradient = gradient * min(1.0, clip / (np.sqrt((gradient**2).sum()) + 1e-6))
        if i < frozen_until:
            continue
        count += 1
        param = param * (1 - rates[i] * decays[i])
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        param = param - rates[i] * (m / (1 - 0.9**count)) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8)
    return param


def test_adamw_equals_pytorchs_with_dinos_clipping_freezing_and_decay():
    rng = np.random.default_rng(0)
    params, gradients = tree(rng), [tree(rng) for _ in range(5)]
    rate = optim.cosine(start=0.1, end=0.01, steps=5)
    decay = optim.cosine(start=0.04, end=0.4, steps=5)
    transform = optim.adamw(
        learning_rate=rate, weight_decay=decay, clip_norm=1.0, freeze="head/last", freeze_steps=2, no_decay=("bias",)
    )
    stacked = jax.tree.map(lambda x: x, params)
    stacked["blocks"] = jax.tree.map(lambda x: x[None], params["blocks"])  # one layer, stacked
    many = [{**g, "blocks": jax.tree.map(lambda x: x[None], g["blocks"])} for g in gradients]
    result = run(transform, as_float32(stacked), [as_float32(g) for g in many])[-1]

    rates, decays = [float(rate(i)) for i in range(5)], [float(decay(i)) for i in range(5)]
    kernel = reference_adamw(
        params["blocks"]["fc"]["kernel"], [g["blocks"]["fc"]["kernel"] for g in gradients], rates, decays, 1.0
    )
    bias = reference_adamw(
        params["blocks"]["fc"]["bias"], [g["blocks"]["fc"]["bias"] for g in gradients], rates, [0.0] * 5, 1.0
    )
    last = reference_adamw(
        params["head"]["last"]["kernel"], [g["head"]["last"]["kernel"] for g in gradients], rates, decays, 1.0, 2
    )
    np.testing.assert_allclose(result["blocks"]["fc"]["kernel"][0], kernel, rtol=1e-5, atol=5e-6)
    np.testing.assert_allclose(result["blocks"]["fc"]["bias"][0], bias, rtol=1e-5, atol=5e-6)
    np.testing.assert_allclose(result["head"]["last"]["kernel"], last, rtol=1e-5, atol=5e-6)


def test_frozen_parameters_do_not_move():
    rng = np.random.default_rng(1)
    params, gradients = as_float32(tree(rng, 2)), [as_float32(tree(rng, 2)) for _ in range(3)]
    transform = optim.adamw(
        learning_rate=optim.constant(value=0.1),
        weight_decay=optim.constant(value=0.1),
        freeze="head/last",
        freeze_steps=2,
    )
    after = run(transform, params, gradients)
    np.testing.assert_array_equal(after[1]["head"]["last"]["kernel"], params["head"]["last"]["kernel"])
    assert np.any(after[2]["head"]["last"]["kernel"] != params["head"]["last"]["kernel"])
    with pytest.raises(InputError, match="head/lost"):
        optim.adamw(
            learning_rate=optim.constant(value=0.1),
            weight_decay=optim.constant(value=0.0),
            freeze="head/lost",
            freeze_steps=1,
        ).init(params)


def test_a_stack_is_clipped_as_its_layers_are():
    rng = np.random.default_rng(2)
    stacked = as_float32(tree(rng, 3))
    clip = optim.clip_by_parameter_norm(0.7)
    whole = clip.update(stacked, clip.init(stacked))[0]
    for layer in range(3):
        alone = {"layer": jax.tree.map(lambda x, i=layer: x[i], stacked["blocks"])}
        expected = clip.update(alone, clip.init(alone))[0]["layer"]
        jax.tree.map(lambda a, b, i=layer: np.testing.assert_allclose(a[i], b, rtol=1e-6), whole["blocks"], expected)


def reference_lars(param, gradients, rates, decay, adapts, momentum=0.9, trust=0.001):
    """SimCLR's LARS on one parameter: You et al. 2017 with the rate inside the velocity."""
    velocity = np.zeros_like(param)
    for gradient, rate in zip(gradients, rates, strict=True):
        ratio = 1.0
        if adapts:
            gradient = gradient + decay * param
            norms = np.linalg.norm(param), np.linalg.norm(gradient)
            ratio = trust * norms[0] / norms[1] if min(norms) > 0 else 1.0
        velocity = momentum * velocity + rate * ratio * gradient
        param = param - velocity
    return param


def test_lars_equals_numpy_and_a_stack_its_layers():
    rng = np.random.default_rng(3)
    params, gradients = tree(rng, 3), [tree(rng, 3) for _ in range(4)]
    params["head"]["last"]["kernel"][:] = 0  # a zero norm has a ratio of one
    schedule = optim.cosine(start=2.0, end=0.0, steps=4, warmup_steps=1)
    transform = optim.lars(learning_rate=schedule, weight_decay=optim.constant(value=0.1))
    result = run(transform, as_float32(params), [as_float32(g) for g in gradients])[-1]

    rates = [float(schedule(i)) for i in range(4)]
    for name, adapts in (("kernel", True), ("bias", False)):
        for layer in range(3):
            alone = [g["blocks"]["fc"][name][layer] for g in gradients]
            expected = reference_lars(params["blocks"]["fc"][name][layer], alone, rates, 0.1, adapts)
            np.testing.assert_allclose(result["blocks"]["fc"][name][layer], expected, rtol=1e-5, atol=1e-6)
    last = [g["head"]["last"]["kernel"] for g in gradients]
    expected = reference_lars(params["head"]["last"]["kernel"], last, rates, 0.1, True)
    np.testing.assert_allclose(result["head"]["last"]["kernel"], expected, rtol=1e-5, atol=1e-6)


def names_of(params, keep):
    """Return the last two names of the parameters that `keep` chooses."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(key.key for key in path[-2:]) for path, leaf in leaves if keep(leaf)}


ENCODERS = {
    "resnet": (
        functools.partial(resnet, 50, blocks=(1, 1, 1, 1), width_multiplier=0.25),
        {"norm/scale", "norm1/scale", "shortcut_norm/bias"},
        {"conv/kernel"},
    ),
    "vit": (
        functools.partial(vit, "s", depth=2, patch_size=16, image_size=224, registers=2, layer_scale=1e-5),
        {"qkv/bias", "norm1/scale", "scale1/gamma", "encoder/cls", "encoder/position", "encoder/register"},
        {"qkv/kernel", "patch/kernel", "fc2/kernel"},
    ),
}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_groups_are_the_papers(encoder):
    """SimCLR: biases and batch norms neither decay nor adapt. In a network's layers these are all that is a vector."""
    make, some_excluded, some_included = ENCODERS[encoder]
    head = functools.partial(BatchNormMLP, width=64, hidden=32, outputs=16, layers=2)
    init = lambda key: {"encoder": Pure(make).init(key), "projector": Pure(head).init(key)}  # noqa: E731
    params = jax.eval_shape(init, jax.random.key(0))
    ones, zeros = (jax.tree.map(lambda leaf, v=v: jnp.full(leaf.shape, v, jnp.float32), params) for v in (1, 0))
    one = optim.constant(value=1.0)

    decayed = {}
    for name, transform in {
        "lars": optim.lars(learning_rate=one, weight_decay=one),
        "adamw": optim.adamw(learning_rate=one, weight_decay=one),
    }.items():
        updates, _ = jax.jit(transform.update)(zeros, transform.init(ones), ones)
        decayed[name] = names_of(updates, np.any)
    # A gradient of 2 is scaled where there is a ratio: to the length 0.001 |w|, and left alone elsewhere.
    transform = optim.lars(learning_rate=one, weight_decay=optim.constant(value=0.0))
    updates, _ = jax.jit(transform.update)(jax.tree.map(lambda x: 2 * x, ones), transform.init(ones), ones)
    adapted = names_of(updates, lambda leaf: np.allclose(leaf, -0.001, rtol=1e-4))
    assert adapted == decayed["lars"]
    assert adapted | names_of(updates, lambda leaf: np.allclose(leaf, -2)) == names_of(params, lambda leaf: True)

    excluded = names_of(params, lambda leaf: True) - adapted
    assert {name.split("/")[1] for name in adapted} == {"kernel"}
    assert some_excluded <= excluded and some_included <= adapted
    assert not any(name.endswith("kernel") for name in excluded)
    # DINO's released code, whose rule AdamW has, decays tokens and positions too.
    assert decayed["adamw"] - adapted == {name for name in excluded if name.startswith("encoder/")}
