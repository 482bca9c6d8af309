"""The ResNet against transformers' (long), its batch norm against NumPy, meshes against one device."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ssljax import mesh
from ssljax.errors import InputError
from ssljax.export import resnets
from ssljax.models.norm import BatchNorm
from ssljax.models.pure import Pure, combine
from ssljax.models.resnet import DEPTHS, resnet
from ssljax.models.vit import ViT


def tiny(**options):
    return Pure(functools.partial(resnet, 18, **(dict(blocks=(1, 1), width_multiplier=0.125, stem="cifar") | options)))


def images(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def largest_difference(one, other):
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max()), one, other)))


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_equals_numpy_in_both_modes(affine):
    random = np.random.default_rng(0)
    x = random.normal(size=(6, 5, 3)) * [1, 10, 0.1] + [100, 0, -3]
    norm = Pure(lambda rngs: BatchNorm(3, affine=affine))
    scale, bias = (random.normal(size=3), random.normal(size=3)) if affine else (1.0, 0.0)
    params = {"scale": jnp.asarray(scale, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)} if affine else {}
    assert jax.tree.map(jnp.shape, norm.init(jax.random.key(0))) == jax.tree.map(jnp.shape, params)

    out, statistics = norm.train(params, jnp.asarray(x, jnp.float32))
    mean, var = x.mean((0, 1)), x.var((0, 1))
    np.testing.assert_allclose(out, (x - mean) / np.sqrt(var + 1e-5) * scale + bias, atol=5e-5)
    np.testing.assert_allclose(statistics["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(statistics["var"], x.var((0, 1), ddof=1), rtol=1e-5)

    kept = {"mean": jnp.asarray([1.0, 2.0, 3.0]), "var": jnp.asarray([4.0, 5.0, 6.0])}
    out = norm(combine(params, kept), jnp.asarray(x, jnp.float32))
    expected = (x - [1, 2, 3]) / np.sqrt(np.array([4, 5, 6]) + 1e-5) * scale + bias
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_statistics_are_float32_where_the_network_is_not():
    net = tiny(dtype="bfloat16")
    output, statistics = net.train(net.init(jax.random.key(0)), images(4, 8, 8, 3))
    assert output.features.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(statistics)} == {jnp.dtype("float32")}


def test_shapes_and_sizes():
    assert tiny().abstract.width == 16
    x = images(2, 16, 16, 3)
    for net, n, d in ((tiny(), 64, 16), (tiny(stem="imagenet", bottleneck=True), 4, 64)):
        output, statistics = net.train(net.init(jax.random.key(0)), x)
        assert output.features.shape == (2, d) and output.patches.shape == (2, n, d)
        np.testing.assert_allclose(output.features, np.mean(output.patches, axis=1), rtol=1e-5)
        assert jax.tree.map(jnp.shape, statistics) == jax.tree.map(jnp.shape, net.init_statistics())
    # torchvision's counts less the classifier's
    for depth, count in ((18, 11_689_512 - 513_000), (34, 21_797_672 - 513_000), (50, 25_557_032 - 2_049_000)):
        shapes = jax.eval_shape(Pure(functools.partial(resnet, depth)).init, jax.random.key(0))
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_a_block_starts_as_its_shortcut():
    net = tiny()
    params = net.init(jax.random.key(0))
    x = images(2, 8, 8, 3)
    changed = jax.tree.map(lambda leaf: leaf, params)
    changed["layer1_0"]["conv1"]["kernel"] *= 3.0
    np.testing.assert_array_equal(net.train(params, x)[0].features, net.train(changed, x)[0].features)
    assert np.all(tiny(zero_init=False).init(jax.random.key(0))["layer1_0"]["norm2"]["scale"] == 1)


def test_recomputing_changes_neither_gradient_nor_statistics():
    x, params = images(4, 8, 8, 3), tiny(zero_init=False).init(jax.random.key(0))

    def result(remat):
        net = tiny(zero_init=False, remat=remat)

        def loss(params):
            output, statistics = net.train(params, x)
            return jnp.sum(jnp.sin(output.features)), statistics

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    assert largest_difference(result("none"), result("full")) < 1e-5


@pytest.mark.parametrize("layout", ["data=8", "fsdp=8"])
def test_eight_devices_give_one_devices_numbers(layout):
    net, x = tiny(zero_init=False, width_multiplier=0.5), images(16, 8, 8, 3)
    params = net.init(jax.random.key(0))

    def loss(params, x):
        output, statistics = net.train(params, mesh.shard_batch(x))
        return jnp.mean(jnp.sin(output.features)), (output.features, statistics)

    gradient = jax.grad(loss, has_aux=True)
    with jax.default_matmul_precision("highest"):
        one = jax.jit(gradient)(params, x)
        devices = mesh.make_mesh(layout)
        with jax.set_mesh(devices):
            sharded = jax.device_put(params, mesh.shardings(params, devices, min_size=1000))
            many = jax.jit(gradient)(sharded, mesh.to_mesh(devices, np.asarray(x), 16))
    assert largest_difference(one, many) < 1e-5


def test_batch_norms_without_statistics_are_told():
    net = tiny()
    with pytest.raises(InputError, match="A ResNet has batch norms.*such as a ViT"):
        net(net.init(jax.random.key(0)), images(2, 8, 8, 3))


def test_a_network_without_batch_norm_has_no_statistics():
    net = Pure(functools.partial(ViT, image_size=8, patch_size=4, width=8, depth=1, heads=2))
    params = net.init(jax.random.key(0))
    output, statistics = net.train(params, images(2, 8, 8, 3))
    assert statistics == {} == net.init_statistics()
    np.testing.assert_allclose(
        output.features, net(combine(params, statistics), images(2, 8, 8, 3)).features, atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(depth=20), "depth is 20: there is a ResNet of 18, 34"),
        (dict(depth=18, stem="big"), "stem 'big'"),
        (dict(depth=18, width_multiplier=0.001), "width_multiplier"),
        (dict(depth=18, blocks=(1, 0)), r"blocks is \(1, 0\)"),
        (dict(depth=18, wide=True), "no argument 'wide'"),
    ],
)
def test_bad_values_are_told(options, message):
    with pytest.raises(InputError, match=message):
        Pure(functools.partial(resnet, **options)).abstract  # noqa: B018


TORCHVISION = {
    r"embedder\.embedder\.convolution": "conv1",
    r"embedder\.embedder\.normalization": "bn1",
    r"encoder\.stages\.(\d+)\.layers\.": lambda match: f"layer{int(match[1]) + 1}.",
    r"layer\.(\d+)\.convolution": lambda match: f"conv{int(match[1]) + 1}",
    r"layer\.(\d+)\.normalization": lambda match: f"bn{int(match[1]) + 1}",
    r"shortcut\.convolution": "downsample.0",
    r"shortcut\.normalization": "downsample.1",
}
"""transformers' names as torchvision's."""


def resnet_from_torch(state):
    """Return parameters and statistics of transformers' ResNet, which thereby tests what reads torchvision's names."""
    renamed = {}
    for name, value in state.items():
        for old, new in TORCHVISION.items():
            name = re.sub(old, new, name)
        renamed[name] = value.numpy()
    flat = traverse_util.flatten_dict(resnets.from_state(renamed, {}).params["encoder"])
    kept = {path: leaf for path, leaf in flat.items() if path[-1] in ("mean", "var")}
    params = {path: leaf for path, leaf in flat.items() if path not in kept}
    return traverse_util.unflatten_dict(params), traverse_util.unflatten_dict(kept)


@pytest.mark.long
@pytest.mark.parametrize("depth", [18, 50])
def test_equals_transformers_in_both_modes(depth):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    counts, bottleneck = DEPTHS[depth]
    widths = [256, 512, 1024, 2048] if bottleneck else [64, 128, 256, 512]
    kind = "bottleneck" if bottleneck else "basic"
    torch.manual_seed(0)
    theirs = transformers.ResNetModel(
        transformers.ResNetConfig(depths=list(counts), hidden_sizes=widths, layer_type=kind)
    )
    for name, value in theirs.state_dict().items():
        if name.endswith(("running_mean", "normalization.bias")):
            value.normal_(0, 0.1)
        elif name.endswith(("running_var", "normalization.weight")):
            value.uniform_(0.5, 1.5)
    params, kept = resnet_from_torch({name: value.clone() for name, value in theirs.state_dict().items()})
    net = Pure(functools.partial(resnet, depth))
    assert jax.tree.map(np.shape, params) == jax.tree.map(jnp.shape, jax.eval_shape(net.init, jax.random.key(0)))

    x = np.random.default_rng(0).normal(size=(8, 64, 64, 3)).astype(np.float32)
    pixels = torch.from_numpy(x.transpose(0, 3, 1, 2))

    def check(ours, theirs, tolerance):
        theirs = theirs.numpy()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())

    # In training mode the statistics of few values make float32 itself, here and in PyTorch, 1e-4 wrong at depth 50.
    theirs, pixels = theirs.double(), pixels.double()
    with torch.no_grad():
        expected = theirs.eval()(pixels)
        output = jax.jit(net.__call__)(combine(params, kept), x)
        check(output.features, expected.pooler_output.flatten(1), 1e-5)
        check(output.patches, expected.last_hidden_state.flatten(2).transpose(1, 2), 1e-5)
        expected = theirs.train()(pixels)
        output, statistics = jax.jit(net.train)(params, x)
        check(output.features, expected.pooler_output.flatten(1), 3e-4)
        _, after = resnet_from_torch(theirs.state_dict())  # PyTorch moved the running statistics by a tenth
        moved = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, kept, statistics)
    for ours, wanted in zip(jax.tree.leaves(moved), jax.tree.leaves(after), strict=True):
        check(ours, torch.from_numpy(wanted), 1e-4)
