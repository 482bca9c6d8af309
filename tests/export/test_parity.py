"""PyTorch, transformers and onnxruntime read what is exported, and compute the same."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hub_networks import mae_network, resnet_network, vit_network

from ssljax.errors import InputError
from ssljax.export import export_encoder, files, official, onnx_graph, read_network, torch_vit, write_network
from ssljax.export.check import hyperparameters
from ssljax.export.names import head_to_torch
from ssljax.export.network import encoder_of, network_of
from ssljax.models.heads import DINOHead
from ssljax.models.pure import Pure
from ssljax.models.vit import ViT
from ssljax.objectives.base import Encoder

pytestmark = pytest.mark.long
torch = pytest.importorskip("torch")

TINY = dict(image_size=32, patch_size=8, width=48, depth=3, heads=3)
FULL = dict(size="s", image_size=224, patch_size=16, width=384, depth=12, heads=6)
OTHER = 160
"""Another size of images than those that the positions are for, in pixels."""


def spread(params, seed=0):
    """Return parameters far from their start, so that a misplaced one shows."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda p: p + jnp.asarray(random.normal(scale=0.1, size=p.shape), jnp.float32), params)


def encoder(make=ViT, **arguments):
    model = Pure(functools.partial(make, **arguments))
    return Encoder(model, spread(model.init(jax.random.key(0))))


def images(height, width):
    return np.random.default_rng(1).normal(size=(2, height, width, 3)).astype(np.float32)


def tokens(out):
    return np.concatenate([np.asarray(out.features)[:, None], np.asarray(out.patches)], axis=1)


def tensors(state):
    return {name: torch.tensor(array) for name, array in state.items()}


@pytest.mark.parametrize(
    "arguments",
    [
        dict(position_offset=0.1),
        dict(mlp="swiglu", registers=3, layer_scale=0.5, position_antialias=True),
        dict(positions="sincos", mlp_ratio=2.0, norm_eps=1e-3),
    ],
)
@pytest.mark.parametrize("size", [(32, 32), (48, 24), (16, 16)])
def test_any_variant_at_any_size(arguments, size):
    ours = encoder(**TINY, **arguments)
    state = tensors(official.to_state(network_of(ours)))
    theirs = torch_vit.features(state, images(*size), **hyperparameters(ours.model.abstract))
    np.testing.assert_allclose(tokens(ours(jnp.asarray(images(*size)))), theirs, atol=5e-5)


def test_strict():
    state = tensors(official.to_state(network_of(encoder(**TINY))))
    with pytest.raises(ValueError, match="that no ViT has: head.weight"):
        torch_vit.features(state | {"head.weight": torch.zeros(1)}, images(32, 32), heads=3)
    del state["norm.bias"]
    with pytest.raises(KeyError, match="norm.bias"):
        torch_vit.features(state, images(32, 32), heads=3)


CHECKED = [("dino", "w.safetensors"), ("dino", "w.pth"), ("dino", "w"), ("transformers", "w"), ("onnx", "w.onnx")]


@pytest.mark.parametrize(("format", "name"), [*CHECKED, ("onnx", "w")])
def test_export_and_check(format, name, tmp_path, capsys):
    path = tmp_path / name
    export_encoder(encoder(**TINY, dtype="bfloat16"), path, format=format, check=True)
    told = capsys.readouterr().out.splitlines()[-1]
    assert f"largest difference between the features from {path} and ours: " in told
    assert float(told.split()[-1]) < 1e-5
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("format", "make"),
    [
        ("transformers", resnet_network),
        ("transformers", mae_network),
        ("transformers", functools.partial(vit_network, registers=2)),
        ("onnx", resnet_network),
        ("onnx", functools.partial(vit_network, registers=2)),
    ],
)
def test_check_of_other_networks(format, make, tmp_path, capsys):
    write_network(make(), tmp_path / "folder", format=format, check=True)
    assert "largest difference" in capsys.readouterr().out


def test_what_cannot_be_checked_is_told(tmp_path):
    for ours in (resnet_network(), mae_network()):
        with pytest.raises(InputError, match="--check of the format 'dino' is for ViTs, alone or with DINO's heads"):
            write_network(ours, tmp_path / "weights.safetensors", check=True)


@pytest.mark.parametrize(("format", "name"), CHECKED)
def test_check_fails_on_other_weights(format, name, tmp_path, monkeypatch):
    cast, to_model = files.cast, onnx_graph.to_model

    def other(state, dtype):
        changed = {key: array + np.float32(0.01) if array.ndim > 1 else array for key, array in state.items()}
        return cast(changed, dtype)

    def other_graph(network, dtype, **keywords):
        return to_model(network._replace(params=jax.tree.map(lambda p: p * 1.01, network.params)), dtype, **keywords)

    monkeypatch.setattr(files, "cast", other)
    monkeypatch.setattr(onnx_graph, "to_model", other_graph)
    with pytest.raises(RuntimeError, match="would not give our features: the largest difference is"):
        export_encoder(encoder(**TINY), tmp_path / name, format=format, check=True)


def expected(network, size):
    """Return our features, of the network itself."""
    ours = encoder_of(network)
    with jax.default_matmul_precision("highest"):
        return tokens(jax.jit(ours.model)(ours.params, jnp.asarray(images(size, size))))


@pytest.fixture(scope="module")
def small():
    """A ViT-S/16 at full size, and its features at both sizes."""
    network = vit_network(**FULL)
    return network, {size: expected(network, size) for size in (224, OTHER)}


def by_torch(state, size, **keywords):
    return torch_vit.features(dict(state), images(size, size), heads=6, **keywords)


def by_transformers(folder, size, **keywords):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.inference_mode():
        return model(tensors({"x": images(size, size)})["x"].permute(0, 3, 1, 2), **keywords).last_hidden_state.numpy()


def by_onnx(path, size, first="cls"):
    onnxruntime = pytest.importorskip("onnxruntime")
    found = onnxruntime.InferenceSession(path).run(
        [first, "patches"], {"images": images(size, size).transpose(0, 3, 1, 2)}
    )
    return np.concatenate([found[0][:, None], found[1]], axis=1)


@pytest.mark.parametrize(
    ("format", "name"), [("dino", "w.safetensors"), ("dino", "w.pth"), ("timm", "w"), ("safetensors", "w.safetensors"),
                         ("npz", "w.npz"), ("transformers", "w"), ("onnx", "w.onnx")]
)  # fmt: skip
def test_vit_s_at_full_size(format, name, small, tmp_path):
    """At the native size, at another one, and at that one from positions resampled for it."""
    network, features = small
    for image_size in (None, OTHER):
        path = tmp_path / f"{image_size or 224}" / name
        path.parent.mkdir()
        write_network(network, path, format=format, image_size=image_size)
        for size in (224, OTHER) if image_size is None else (OTHER,):
            if format == "dino":
                found = by_torch(torch_vit.load(path), size)
            elif format == "timm":
                found = by_torch(torch_vit.load(path / "model.safetensors"), size)
                again = tensors(official.to_state(read_network(path)))
                np.testing.assert_array_equal(by_torch(again, size), found)
            elif format == "transformers":
                found = by_transformers(path, size, interpolate_pos_encoding=size != (image_size or 224))
            elif format == "onnx":
                if size != (image_size or 224):
                    continue  # its images are of one size
                found = by_onnx(path, size)
            else:
                found = expected(read_network(path), size)
            np.testing.assert_allclose(found, features[size], rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def large():
    """A ResNet-50 at full size, and its features at both sizes."""
    network = resnet_network(blocks=[3, 4, 6, 3], width_multiplier=1.0)

    def scaled(path, leaf):  # so that features are about one
        return leaf * np.float32(14 / leaf[..., 0].size ** 0.5) if path[-1].key == "kernel" else leaf

    network = network._replace(params=jax.tree_util.tree_map_with_path(scaled, network.params))
    features = {size: expected(network, size) for size in (224, OTHER)}
    assert 0.3 < max(np.abs(one).max() for one in features.values()) < 30
    return network, features


def torch_resnet(state, size):
    """Return what a ResNet of torchvision's names gives (He et al. 2016, strides in the 3x3 convolutions)."""
    f, left = torch.nn.functional, dict(state)

    def layer(x, convolution, norm, stride=1):
        weight = left.pop(f"{convolution}.weight")
        x = f.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        left.pop(f"{norm}.num_batches_tracked")
        names = ("running_mean", "running_var", "weight", "bias")
        return f.batch_norm(x, *(left.pop(f"{norm}.{name}") for name in names))

    with torch.inference_mode():
        x = torch.tensor(images(size, size)).permute(0, 3, 1, 2)
        x = f.max_pool2d(f.relu(layer(x, "conv1", "bn1", 2)), 3, 2, 1)
        for stage, blocks in enumerate((3, 4, 6, 3), start=1):
            for i in range(blocks):
                name, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
                y = f.relu(layer(x, f"{name}.conv1", f"{name}.bn1"))
                y = f.relu(layer(y, f"{name}.conv2", f"{name}.bn2", stride))
                y = layer(y, f"{name}.conv3", f"{name}.bn3")
                x = layer(x, f"{name}.downsample.0", f"{name}.downsample.1", stride) if i == 0 else x
                x = f.relu(x + y)
    assert not left
    x = x.flatten(2).transpose(1, 2)
    return torch.cat([x.mean(1, keepdim=True), x], dim=1).numpy()


@pytest.mark.parametrize("format", ["dino", "timm", "torchvision", "transformers", "onnx"])
def test_resnet_50_at_full_size(format, large, tmp_path):
    network, features = large
    write_network(network, tmp_path / "folder", format=format)
    for size, ours in features.items():
        if format == "onnx":
            theirs = by_onnx(tmp_path / "folder" / "model.onnx", size, first="features")
        elif format == "transformers":
            transformers = pytest.importorskip("transformers")
            model = transformers.ResNetModel.from_pretrained(tmp_path / "folder").eval()
            with torch.inference_mode():
                out = model(torch.tensor(images(size, size)).permute(0, 3, 1, 2))
            theirs = torch.cat([out.pooler_output.flatten(2), out.last_hidden_state.flatten(2)], dim=2)
            theirs = theirs.transpose(1, 2).numpy()
        else:
            theirs = torch_resnet(torch_vit.load(tmp_path / "folder" / "model.safetensors"), size)
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)


def test_head_equals_torch():
    model = Pure(functools.partial(DINOHead, width=12, hidden=16, bottleneck=8, prototypes=24, norm_last_layer=False))
    params = spread(model.init(jax.random.key(0)))
    layers = [
        torch.nn.Linear(12, 16),
        torch.nn.GELU(),
        torch.nn.Linear(16, 16),
        torch.nn.GELU(),
        torch.nn.Linear(16, 8),
    ]
    mlp = torch.nn.Sequential(*layers)
    state = tensors(head_to_torch(params))
    direction, gain = state.pop("last_layer.weight_v"), state.pop("last_layer.weight_g")
    mlp.load_state_dict({name.removeprefix("mlp."): tensor for name, tensor in state.items()}, strict=True)
    x = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
    with torch.inference_mode():
        z = torch.nn.functional.normalize(mlp(torch.tensor(x)), dim=-1)
        expected = torch.nn.functional.linear(z, torch._weight_norm(direction, gain, 0)).numpy()
    np.testing.assert_allclose(np.asarray(model(params, jnp.asarray(x))), expected, atol=2e-6)


def test_the_code_of_a_card_runs_in_transformers(small, tmp_path):
    write_network(small[0], tmp_path / "folder", format="transformers")
    code = re.findall(r"```python\n(.*?)```", (tmp_path / "folder" / "README.md").read_text(), re.S)[0]
    values = {"pixel_values": torch.tensor(images(224, 224)).permute(0, 3, 1, 2)}
    with torch.inference_mode():
        exec(code.replace("PATH/TO/THIS/FOLDER", f"{tmp_path / 'folder'}"), values)
    np.testing.assert_allclose(values["outputs"].last_hidden_state, small[1][224], rtol=0, atol=1e-4)
