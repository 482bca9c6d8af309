"""The ResNet against transformers' (long), its batch norm against NumPy, meshes against one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import mesh
from ssljax.errors import InputError
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


def of_transformers(net, state, prefix, target):
    """Copy one convolution and its batch norm from their names to ours."""
    convolution, norm = target
    params = {convolution: {"kernel": state[f"{prefix}.convolution.weight"].numpy().transpose(2, 3, 1, 0)}}
    names = dict(scale="weight", bias="bias", mean="running_mean", var="running_var")
    params[norm] = {ours: state[f"{prefix}.normalization.{theirs}"].numpy() for ours, theirs in names.items()}
    return params


@pytest.mark.long
@pytest.mark.parametrize("depth", [18, 50])
def test_equals_transformers(depth):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    counts, bottleneck = DEPTHS[depth]
    widths = [256, 512, 1024, 2048] if bottleneck else [64, 128, 256, 512]
    config = transformers.ResNetConfig(
        depths=list(counts), hidden_sizes=widths, layer_type="bottleneck" if bottleneck else "basic"
    )
    torch.manual_seed(0)
    theirs = transformers.ResNetModel(config)
    for name, value in theirs.state_dict().items():
        if name.endswith(("running_mean", "normalization.bias")):
            value.normal_(0, 0.1)
        elif name.endswith(("running_var", "normalization.weight")):
            value.uniform_(0.5, 1.5)
    state = {name: value.clone() for name, value in theirs.state_dict().items()}
    params = of_transformers(None, state, "embedder.embedder", ("conv", "norm"))
    for stage, count in enumerate(counts):
        for i in range(count):
            at, block = f"encoder.stages.{stage}.layers.{i}", {}
            for j in range(3 if bottleneck else 2):
                block |= of_transformers(None, state, f"{at}.layer.{j}", (f"conv{j + 1}", f"norm{j + 1}"))
            if f"{at}.shortcut.convolution.weight" in state:
                block |= of_transformers(None, state, f"{at}.shortcut", ("shortcut", "shortcut_norm"))
            params[f"layer{stage + 1}_{i}"] = block
    x = np.random.default_rng(0).normal(size=(4, 64, 64, 3)).astype(np.float32)
    pixels = torch.from_numpy(x.transpose(0, 3, 1, 2))
    net = Pure(functools.partial(resnet, depth))
    variables = jax.tree.map(jnp.asarray, params)
    with torch.no_grad():
        expected = theirs.eval()(pixels).pooler_output.flatten(1).numpy()
        actual = jax.jit(net.__call__)(variables, jnp.asarray(x)).features
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)

        expected = theirs.train()(pixels).pooler_output.flatten(1).numpy()
    names = jax.tree.map(jnp.shape, jax.eval_shape(net.init, jax.random.key(0)))
    trained = {layer: {k: variables[layer][k] for k in names[layer]} for layer in names}
    trained = {
        layer: {k: {leaf: v[leaf] for leaf in names[layer][k]} if isinstance(v, dict) else v for k, v in entry.items()}
        for layer, entry in trained.items()
    }
    output, statistics = jax.jit(net.train)(trained, jnp.asarray(x))
    np.testing.assert_allclose(output.features, expected, rtol=1e-4, atol=1e-4)
    after = theirs.state_dict()  # running statistics moved by a tenth
    name = "encoder.stages.3.layers.0.layer.0.normalization"
    for ours, suffix in (("mean", "running_mean"), ("var", "running_var")):
        moved = (after[f"{name}.{suffix}"] - 0.9 * state[f"{name}.{suffix}"]) / 0.1
        np.testing.assert_allclose(statistics["layer4_0"]["norm1"][ours], moved, rtol=1e-3, atol=1e-4)
