"""The heads against their formulas in NumPy."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax.errors import InputError
from ssljax.models.heads import BatchNormMLP, DINOHead
from ssljax.models.pure import Pure

gelu = np.vectorize(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2)


def head(**arguments):
    small = dict(width=12, hidden=16, bottleneck=8, prototypes=24)
    return Pure(functools.partial(DINOHead, **(small | arguments)))


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_equals_numpy(layers, fixed):
    net = head(layers=layers, norm_last_layer=fixed)
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), net.init(jax.random.key(0)))
    assert ("gain" in params["last"]) is not fixed
    random = np.random.default_rng(0)
    params["fc1"]["bias"] = random.normal(size=params["fc1"]["bias"].shape)
    if not fixed:
        params["last"]["gain"] = random.uniform(0.5, 2, 24)
    x = random.normal(size=(3, 2, 12))
    z = x
    for i in range(layers):
        z = z @ params[f"fc{i + 1}"]["kernel"] + params[f"fc{i + 1}"]["bias"]
        z = gelu(z) if i < layers - 1 else z
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    kernel = params["last"]["kernel"] / np.linalg.norm(params["last"]["kernel"], axis=0)
    expected = z @ (kernel * params["last"].get("gain", 1.0))
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
    x = jnp.asarray(x, jnp.float32)
    np.testing.assert_allclose(np.asarray(net(params, x, method="project")), z, atol=2e-6)
    np.testing.assert_allclose(np.asarray(net(params, x)), expected, atol=2e-6)
    np.testing.assert_array_equal(net(params, x, net(params, method="factors")), net(params, x))


def test_mean_logits_are_logits_of_the_mean():
    net = head()
    params = net.init(jax.random.key(0))
    z = net(params, jnp.asarray(np.random.default_rng(0).normal(size=(5, 12)), jnp.float32), method="project")
    mean = np.asarray(net(params, z, method="logits")).mean(0)
    np.testing.assert_allclose(np.asarray(net(params, z.mean(0), method="logits")), mean, atol=1e-6)


def test_zero_input_has_a_finite_gradient():
    net = head()
    params = net.init(jax.random.key(0))
    gradient = jax.grad(lambda p: jnp.sum(net(p, jnp.zeros((2, 12)))))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_bfloat16_gives_float32_logits():
    half = head(dtype="bfloat16")
    params = half.init(jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 12)), jnp.float32)
    logits = half(params, x)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(logits), np.asarray(head()(params, x)), atol=0.03)


def test_no_layer():
    with pytest.raises(InputError, match="layers is 0"):
        head(layers=0).abstract  # noqa: B018


@pytest.mark.parametrize(("layers", "last_norm"), [(1, True), (2, True), (3, False)])
def test_projector_equals_numpy(layers, last_norm):
    net = Pure(functools.partial(BatchNormMLP, width=12, hidden=16, outputs=6, layers=layers, last_norm=last_norm))
    params = net.init(jax.random.key(0))
    assert set(params.get(f"norm{layers}", {})) == set()  # the last batch norm has no scale and bias
    random = np.random.default_rng(0)
    y = x = random.normal(size=(9, 12)).astype(np.float32)
    for i in range(1, layers + 1):
        y = y @ np.asarray(params[f"fc{i}"]["kernel"], np.float64)
        if i < layers or last_norm:
            y = (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5)
        if i < layers:
            scale, bias = random.uniform(0.5, 2, 16), random.normal(size=16)
            params[f"norm{i}"] = {"scale": jnp.asarray(scale, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
            y = np.maximum(y * scale + bias, 0)
    np.testing.assert_allclose(net.train(params, jnp.asarray(x))[0], y, atol=1e-5)


def test_a_projector_of_nothing_is_refused():
    for name in ("hidden", "outputs", "layers"):
        sizes = dict(hidden=8, outputs=8, layers=2) | {name: 0}
        with pytest.raises(InputError, match=f"{name} is 0"):
            Pure(functools.partial(BatchNormMLP, width=4, **sizes)).abstract  # noqa: B018
