"""The ViT equals the golden numbers, and whatever must not change its values does not."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ssljax import flops
from ssljax.errors import InputError
from ssljax.export.names import vit_from_torch
from ssljax.models.attention import attend, padded_length
from ssljax.models.blocks import Block, drop_path_factors
from ssljax.models.pure import Pure
from ssljax.models.vit import ViT, vit

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "vit_dino.npz")
TINY = dict(image_size=32, patch_size=8, width=48, depth=3, heads=3)


def model(**arguments):
    return Pure(functools.partial(ViT, **(TINY | arguments)))


def run(net, params, *arrays, keep=None, keys=None, **static):
    return jax.jit(lambda p, *a, **k: net(p, *a, **k, **static))(params, *arrays, keep=keep, keys=keys)


def images(size=32, batch=2, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, size, size, 3)), jnp.float32)


def golden_params():
    prefix = "state/"
    state = vit_from_torch({k.removeprefix(prefix): GOLDEN[k] for k in GOLDEN.files if k.startswith(prefix)})
    return jax.tree.map(jnp.asarray, state)


def assert_trees_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(np.asarray(x), np.asarray(y), **tolerance), a, b)


@pytest.mark.parametrize("name", ["square", "larger", "smaller"])
def test_equals_the_released_dino(name):
    net = model(position_offset=0.1)
    x = jnp.transpose(GOLDEN[f"{name}/images_nchw"], (0, 2, 3, 1))
    out = run(net, golden_params(), x, probe=-1, layers=(-1,))
    tokens, attention = GOLDEN[f"{name}/tokens"], GOLDEN[f"{name}/last_attention"]
    np.testing.assert_allclose(np.asarray(out.cls), tokens[:, 0], atol=1e-5)
    np.testing.assert_allclose(np.asarray(out.patches), tokens[:, 1:], atol=1e-5)
    np.testing.assert_allclose(np.asarray(out.probe.cls_attention), attention[:, :, 0, 1:], atol=1e-5)
    q, k = np.asarray(out.probe.queries), np.asarray(out.probe.keys)
    assert q.shape == k.shape == (*attention.shape[:2], tokens.shape[1] - 1, 16)
    # The golden attention among patches is the softmax of q k^T but for the CLS column.
    logits = np.exp(q @ np.swapaxes(k, 2, 3) / 4)
    among = attention[:, :, 1:, 1:]
    expected = among / among.sum(-1, keepdims=True)
    np.testing.assert_allclose(logits / logits.sum(-1, keepdims=True), expected, atol=1e-5)
    assert out.layers[0].shape == tokens.shape


def test_abstract_parameters_are_the_golden_ones():
    net = model()
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(net.init, jax.random.key(0)))
    assert shapes == jax.tree.map(np.shape, golden_params())


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_scanned_blocks_equal_blocks_one_by_one(mlp):
    net = model(mlp=mlp, layer_scale=0.3, registers=2)
    params = net.init(jax.random.key(1))
    grid, x = (4, 4), images()
    out = run(net, params, x, layers=(0, 1, 2), probe=1)
    block = functools.partial(
        Block,
        width=48,
        heads=3,
        mlp_ratio=4.0,
        mlp=mlp,
        layer_scale=0.3,
        norm_eps=1e-6,
        dtype="float32",
        attention="xla",
    )
    one = Pure(block)
    positions = net(params, grid, method="positions")
    tokens = net(params, x, method="project") + params["patch"]["bias"][None, None] + positions[None, 1:]
    first = jnp.concatenate([(params["cls"] + positions[0])[None], params["register"]])
    tokens = jnp.concatenate([jnp.stack([first] * 2), tokens], axis=1)
    for i in range(3):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"])
        if i == 1:
            assert_trees_close(out.probe, one(layer, tokens, method="probe", prefix=3), rtol=1e-5, atol=1e-6)
        tokens = one(layer, tokens)
        np.testing.assert_allclose(np.asarray(out.layers[i]), np.asarray(tokens), atol=1e-5)
    assert out.probe.keys.shape == (2, 3, 16, 16)
    assert out.patches.shape == (2, 16, 48)


def test_blocks_start_different():
    kernel = model().init(jax.random.key(0))["blocks"]["attention"]["qkv"]["kernel"]
    assert abs(float(jnp.std(kernel)) - 0.02) < 1e-3
    assert not np.allclose(kernel[0], kernel[1])


def test_subset_of_patches():
    net = model(registers=1)
    params, x = net.init(jax.random.key(0)), images()
    everything = jnp.broadcast_to(jnp.arange(16)[None], (2, 16))
    assert_trees_close(run(net, params, x, keep=everything), run(net, params, x), atol=1e-6)
    order = jnp.asarray([[3, 7, 0, 12], [1, 2, 3, 4]])
    out = run(net, params, x, keep=order, probe=0)
    swapped = run(net, params, x, keep=order[:, ::-1], probe=0)
    np.testing.assert_allclose(np.asarray(out.patches), np.asarray(swapped.patches)[:, ::-1], atol=1e-6)
    np.testing.assert_allclose(np.asarray(out.cls), np.asarray(swapped.cls), atol=1e-6)
    changed = x.at[0, :8, 8:16].add(1.0)  # patch 1, which the first sequence doesn't keep and the second does
    again = run(net, params, changed, keep=order)
    np.testing.assert_array_equal(np.asarray(again.cls[0]), np.asarray(run(net, params, x, keep=order).cls[0]))
    changed = changed.at[1, :8, 8:16].add(1.0)
    assert not np.allclose(run(net, params, changed, keep=order).cls[1], out.cls[1])


def test_masked_projection_is_projection_of_masked_image():
    net = model()
    params, x = net.init(jax.random.key(0)), images()
    mask = np.random.default_rng(1).integers(0, 2, (2, 4, 4)).astype(np.float32)
    pixels = np.kron(mask, np.ones((1, 8, 8), np.float32))[..., None]
    masked = net(params, x, method="project") * mask.reshape(2, 16, 1)
    np.testing.assert_allclose(np.asarray(masked), np.asarray(net(params, x * pixels, method="project")), atol=1e-6)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_features_alone_are_the_same_features(remat):
    net = model(registers=2, drop_path=0.3, remat=remat)
    params, keys = net.init(jax.random.key(0)), jax.random.split(jax.random.key(1), 2)

    @functools.partial(jax.jit, static_argnums=1)
    def gradient(params, alone):
        def loss(params):
            out = net(params, images(), keys=keys, features_only=alone)
            return jnp.sum(jnp.sin(3 * out.cls)), out

        return jax.grad(loss, has_aux=True)(params)

    (of_all, whole), (of_one, alone) = gradient(params, False), gradient(params, True)
    np.testing.assert_allclose(alone.cls, whole.cls, rtol=1e-5, atol=1e-6)
    for one, every in zip(jax.tree.leaves(of_one), jax.tree.leaves(of_all), strict=True):
        np.testing.assert_allclose(one, every, rtol=0, atol=1e-5 * np.abs(every).max())
    assert alone.patches.shape[1] == 0
    counted = flops.total(flops.count(lambda params: net(params, images(), features_only=True).cls, params))
    assert counted == 2 * net.abstract.flops(16, features_only=True)


def test_drop_path_depends_on_keys_alone():
    net = model(drop_path=0.5)
    params, x = net.init(jax.random.key(0)), images(batch=4)
    keys = jax.random.split(jax.random.key(7), 4)
    call = jax.jit(lambda x, keys: net(params, x, keys=keys).cls)
    out = np.asarray(call(x, keys))
    np.testing.assert_allclose(np.asarray(call(x[2:], keys[2:])), out[2:], atol=1e-6)
    np.testing.assert_allclose(np.asarray(call(x[::-1], keys[::-1])), out[::-1], atol=1e-6)
    assert not np.allclose(call(x, jax.random.split(jax.random.key(8), 4)), out)
    assert not np.allclose(run(net, params, x).cls, out)


def test_drop_path_rates():
    keys = jax.random.split(jax.random.key(0), 4000)
    factors = np.asarray(drop_path_factors(keys, 5, 0.4))
    assert factors.shape == (5, 4000, 2)
    np.testing.assert_array_equal(factors[0], 1.0)
    np.testing.assert_allclose((factors == 0).mean((1, 2)), np.linspace(0, 0.4, 5), atol=0.02)
    np.testing.assert_allclose(factors.mean((1, 2)), 1.0, atol=0.03)
    assert abs(np.corrcoef(factors[4, :, 0], factors[4, :, 1])[0, 1]) < 0.05


def test_remat_changes_neither_value_nor_gradient():
    x, keys = images(), jax.random.split(jax.random.key(3), 2)

    def value_and_gradient(remat):
        net = model(remat=remat, drop_path=0.2)
        params = net.init(jax.random.key(0))
        loss = lambda p: jnp.sum(jnp.sin(net(p, x, keys=keys, probe=1, layers=(0,)).patches))  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(params)

    plain = value_and_gradient("none")
    for remat in ("full", "dots"):
        assert_trees_close(value_and_gradient(remat), plain, rtol=1e-5, atol=1e-5)


def test_what_is_recomputed():
    def products(remat):
        net = model(remat=remat)
        params = jax.eval_shape(net.init, jax.random.key(0))
        loss = jax.value_and_grad(lambda p, x: jnp.sum(net(p, x).patches))
        counts = flops.count(loss, params, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
        return {name: count for name, count in counts.items() if name.startswith("rematted")}

    queries_by_keys, d = 2 * 3 * 17**2 * 48, 2 * 3 * 17 * 48**2  # of three blocks and both images
    assert products("none") == {}
    assert products("dots") == {"rematted_computation/attention": 2 * 2 * queries_by_keys}
    assert products("full") == {
        "rematted_computation/attention": 2 * (4 * d + 2 * queries_by_keys),
        "rematted_computation/mlp": 2 * 4 * d,  # what the second layer gives is used by no gradient
    }


def test_bfloat16_is_close():
    full, half = model(layer_scale=0.5), model(layer_scale=0.5, dtype="bfloat16", registers=0)
    params, x = full.init(jax.random.key(0)), images()
    assert {leaf.dtype for leaf in jax.tree.leaves(half.init(jax.random.key(0)))} == {jnp.dtype("float32")}
    a, b = run(full, params, x, probe=-1), run(half, params, x, probe=-1)
    assert b.cls.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(a.patches), np.asarray(b.patches, np.float32), atol=0.05)
    np.testing.assert_allclose(np.asarray(a.probe.cls_attention), np.asarray(b.probe.cls_attention), atol=1e-3)


def test_padding_for_the_fused_kernel_changes_nothing(monkeypatch):
    """The kernel itself needs a GPU; XLA's attention stands in for it, with the same padded tokens and lengths."""
    assert [padded_length(count, "cudnn") for count in (197, 198)] == [198, 198]
    assert padded_length(197, "xla") == 197
    x, net = images(), model(depth=2)
    params = net.init(jax.random.key(0))

    def value_and_gradient():
        def loss(p):
            out = net(p, x, probe=-1, layers=(0, 1))
            return sum(jnp.sum(jnp.sin(term)) for term in (out.cls, out.patches, *out.layers, out.probe.cls_attention))

        return jax.jit(jax.value_and_grad(loss))(params)

    plain = value_and_gradient()
    seen = []

    def recorded(*tensors, length, implementation):
        seen.append((tensors[0].shape[1], length))
        return attend(*tensors, length=length, implementation=implementation)

    monkeypatch.setattr("ssljax.models.attention.attend", recorded)
    monkeypatch.setattr("ssljax.models.stack.padded_length", lambda count, _: padded_length(count, "cudnn"))
    assert_trees_close(value_and_gradient(), plain, rtol=1e-5, atol=1e-5)
    assert set(seen) == {(18, 17)}


def test_sincos_positions_are_fixed_and_shaped_like_learned_ones():
    net = model(positions="sincos")
    params = net.init(jax.random.key(0))
    assert "position" not in params
    positions = np.asarray(net(params, (4, 4), method="positions"))
    assert positions.shape == (17, 48)
    assert not positions[0].any()
    assert net(params, images(48)).patches.shape == (2, 36, 48)


def test_rectangular_images():
    net = model()
    params = net.init(jax.random.key(0))
    x = images(40)[:1, :16]
    assert run(net, params, x).patches.shape == (1, 10, 48)


@pytest.mark.parametrize("size", ["ti", "s", "b", "l", "h", "g"])
def test_sizes(size):
    parameters = {"ti": 5.5e6, "s": 21.7e6, "b": 85.8e6, "l": 303.3e6, "h": 630.8e6, "g": 1134.8e6}
    swiglu = {"mlp": "swiglu"} if size == "g" else {}
    net = Pure(functools.partial(vit, size, image_size=224, patch_size=16 if size in "tisbl" else 14, **swiglu))
    count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(net.init, jax.random.key(0))))
    assert count == pytest.approx(parameters[size], rel=5e-3)


def test_flops_of_vit_s():
    net = Pure(functools.partial(vit, "s", image_size=224, patch_size=16))
    assert net.abstract.flops(196) == pytest.approx(9.2e9, rel=1e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(patch_size=5), "patch size 5 does not divide an image of 32x32 pixels"),
        (dict(patch_size=0), "patch size 0 does not divide"),
        (dict(heads=5), "width 48 is not divisible by heads 5"),
        (dict(mlp="relu"), "mlp 'relu' is unknown"),
        (dict(positions="rotary"), "positions 'rotary' is unknown"),
        (dict(remat="some"), "remat 'some' is unknown"),
        (dict(dtype="int8"), "dtype 'int8' is unknown"),
        (dict(attention="flash"), "attention 'flash' is unknown"),
        (dict(attention="cudnn"), "attention 'cudnn' needs dtype 'bfloat16'"),
        (dict(drop_path=1.0), "drop_path is 1.0"),
        (dict(depth=0), "depth is 0"),
        (dict(positions="sincos", width=45), "width 45 is no multiple of 4"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        model(**arguments).abstract  # noqa: B018


def test_bad_calls():
    net = model()
    params = net.init(jax.random.key(0))
    with pytest.raises(InputError, match="does not divide an image of 36x36"):
        net(params, images(36))
    with pytest.raises(InputError, match="block 3 does not exist"):
        net(params, images(), probe=3)
    with pytest.raises(InputError, match="size 'xl' is unknown"):
        vit("xl", rngs=nnx.Rngs(0), image_size=32, patch_size=8)
    with pytest.raises(InputError, match="no argument 'windows'"):
        vit("s", rngs=nnx.Rngs(0), image_size=32, patch_size=8, windows=3)


def test_the_mask_token_stands_for_masked_patches_only():
    """Masked patches are as if their pixels embedded to the token; without a mask the token changes nothing."""
    plain, net = model(), model(mask_token=True)
    without, params = plain.init(jax.random.key(0)), net.init(jax.random.key(0))
    assert params["mask"].shape == (48,) and not params["mask"].any()
    assert_trees_close({name: params[name] for name in without}, without, atol=0)
    params["mask"] = jnp.linspace(-1, 1, 48)
    x, mask = images(), jnp.asarray(np.random.default_rng(0).random((2, 16)) < 0.4)
    assert_trees_close(net(params, x).patches, plain(without, x).patches, atol=0)
    projected = net(params, x, method="project")
    token = params["mask"] - params["patch"]["bias"]
    expected = net(params, jnp.where(mask[:, :, None], token[None, None], projected), (4, 4), method="encode")
    assert_trees_close(net(params, x, mask=mask).patches, expected.patches, atol=1e-5)
    with pytest.raises(InputError, match="mask_token=True"):
        plain(without, x, mask=mask)
