"""transformers reads what is exported and computes the same, and what it saves is read and computes the same."""

import functools
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hub_networks import VITS, mae_network, resnet_network, vit_network
from PIL import Image
from safetensors.numpy import load_file, save_file

from ssljax.data.images import evaluation_view
from ssljax.export.huggingface import config_files, from_state, to_state
from ssljax.export.network import Network
from ssljax.models.mae import MAEDecoder
from ssljax.models.pure import Pure
from ssljax.models.resnet import resnet
from ssljax.models.vit import vit
from ssljax.objectives.mae import MAE
from ssljax.ops.augment import normalise

pytestmark = pytest.mark.long
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MODELS = {"vit": vit, "resnet": resnet, "mae_decoder": MAEDecoder}


def model_of(arguments):
    arguments = dict(arguments)
    return Pure(functools.partial(MODELS[arguments.pop("name")], **arguments))


def images(height, width, count=2):
    return np.random.default_rng(1).normal(size=(count, height, width, 3)).astype(np.float32)


def ours(network, pixels):
    """Return a ViT's tokens but registers [b, 1 + n, d], or a ResNet's mean and map [b, 1 + n, d]."""
    with jax.default_matmul_precision("highest"):
        out = jax.jit(model_of(network.arguments["encoder"]).__call__)(network.params["encoder"], pixels)
    return np.concatenate([np.asarray(out.features)[:, None], np.asarray(out.patches)], axis=1)


def theirs(model, pixels):
    """Return the same of a model of transformers."""
    options = {"interpolate_pos_encoding": True} if model.config.model_type == "vit" else {}
    with torch.inference_mode():
        out = model(torch.tensor(pixels).permute(0, 3, 1, 2), **options)
    if model.config.model_type == "resnet":
        patches = out.last_hidden_state.flatten(2).transpose(1, 2)
        return torch.cat([out.pooler_output.flatten(1)[:, None], patches], dim=1).numpy()
    first = 1 + getattr(model.config, "num_register_tokens", 0)
    tokens = out.last_hidden_state
    return torch.cat([tokens[:, :1], tokens[:, first:]], dim=1).numpy()


def write(network, folder):
    save_file(to_state(network), folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in config_files(network).items():
        (folder / name).write_text(json.dumps(content))


def load(kind, folder):
    """Return the model of a folder, whose arrays must be those that it has; a ViTModel has a pooler if not told."""
    plain = json.loads((folder / "config.json").read_text())["model_type"] == "vit"
    options = {"add_pooling_layer": False} if plain else {}
    model, report = kind.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(report.values()), report
    return model.eval()


def class_of(network):
    return getattr(transformers, config_files(network)["config.json"]["architectures"][0])


def assert_equal_features(network, model, *sizes):
    for size in sizes:
        np.testing.assert_allclose(ours(network, images(*size)), theirs(model, images(*size)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("patch", [8, 14, 16])
@pytest.mark.parametrize("kind", VITS)
def test_exported_vits(kind, patch, tmp_path):
    network = vit_network(image_size=4 * patch, patch_size=patch, **VITS[kind])
    write(network, tmp_path)
    model = load(class_of(network), tmp_path)
    assert_equal_features(network, model, (4 * patch,) * 2, (6 * patch, 3 * patch), (2 * patch,) * 2)
    assert type(load(transformers.AutoModel, tmp_path)) is type(model)


@pytest.mark.parametrize("arguments", [{}, {"depth": 18, "blocks": [2, 2, 2, 2], "bottleneck": False}])
def test_exported_resnets(arguments, tmp_path):
    network = resnet_network(**({"blocks": [3, 4, 6, 3]} | arguments))
    write(network, tmp_path)
    model = load(class_of(network), tmp_path)
    assert_equal_features(network, model, (64, 64), (96, 40))
    assert type(load(transformers.AutoModel, tmp_path)) is type(model)


def reconstructed(network, pixels, noise):
    encoder, decoder = (model_of(network.arguments[role]) for role in ("encoder", "decoder"))
    mae = MAE(encoder, decoder, views=lambda image, key: image, size=pixels.shape[1])
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(mae.reconstruct)(network.params, pixels[:, None], noise).predicted[:, 0])


def assert_equal_reconstructions(network, model):
    pixels, noise = images(32, 32), np.random.default_rng(2).random((2, 16), np.float32)
    with torch.inference_mode():
        out = model(torch.tensor(pixels).permute(0, 3, 1, 2), noise=torch.tensor(noise))
    np.testing.assert_allclose(reconstructed(network, pixels, noise), out.logits.numpy(), rtol=0, atol=1e-4)


def test_exported_mae(tmp_path):
    network = mae_network()
    write(network, tmp_path)
    model = load(transformers.ViTMAEForPreTraining, tmp_path)
    assert_equal_reconstructions(network, model)
    del network.params["decoder"]
    write(network, tmp_path)
    assert_equal_features(network, load(transformers.ViTModel, tmp_path), (32, 32), (48, 24))


def randomised(model):
    """Return a model with parameters and statistics far from their start."""
    torch.manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("normalization.weight", "lambda1")):
            value.uniform_(0.2, 0.8)
        elif not name.endswith(("num_batches_tracked", "decoder_pos_embed")):
            value.add_(torch.randn_like(value), alpha=0.1)
    return model.eval()


def saved(model, folder):
    """Return what is read of what `save_pretrained` writes."""
    model.save_pretrained(folder)
    return from_state(load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text()))


SHAPE = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=3, image_size=32, patch_size=8)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ViT", {"intermediate_size": 100}),
        ("ViT", {"intermediate_size": 96, "qkv_bias": False, "layer_norm_eps": 1e-3}),
        ("Dinov2", {"use_mask_token": False, "layerscale_value": 0.1}),
        ("Dinov2", {"use_swiglu_ffn": True, "mlp_ratio": 3}),
        ("Dinov2WithRegisters", {}),
        ("Dinov2WithRegisters", {"use_swiglu_ffn": True, "num_register_tokens": 1}),
        ("ResNet", {"embedding_size": 16, "hidden_sizes": [64, 128], "depths": [1, 2]}),
        ("ResNet", {"embedding_size": 24, "hidden_sizes": [24, 48], "depths": [2, 1], "layer_type": "basic"}),
    ],
)
def test_saved_models(name, options, tmp_path):
    shape = {} if name == "ResNet" else SHAPE
    config = getattr(transformers, f"{name}Config")(**shape, **options)
    model = randomised(getattr(transformers, f"{name}Model")(config))
    network = saved(model, tmp_path / "model")
    assert_equal_features(network, model, (32, 32), (48, 24), (16, 16))
    for head in ("pooler", "num_batches_tracked"):
        assert any(head in note for note in network.notes) == any(head in name for name in model.state_dict())


@pytest.mark.parametrize("name", ["ViT", "Dinov2", "Dinov2WithRegisters", "ResNet"])
def test_saved_classifiers(name, tmp_path):
    shape = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    config = getattr(transformers, f"{name}Config")(**(shape if name == "ResNet" else SHAPE))
    model = randomised(getattr(transformers, f"{name}ForImageClassification")(config))
    network = saved(model, tmp_path / "model")
    assert_equal_features(network, getattr(model, model.base_model_prefix), (32, 32))
    assert any(note.startswith("The classifier was left out") for note in network.notes)


def test_saved_mae(tmp_path):
    config = transformers.ViTMAEConfig(
        **SHAPE,
        intermediate_size=96,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=64,
    )
    model = transformers.ViTMAEForPreTraining(config)
    build = importlib.import_module(type(model).__module__).build_2d_sinusoidal_position_embedding
    rows, columns = build(4, 4, 32, cls_token=True).chunk(2, dim=1)
    model.decoder.decoder_pos_embed.data.copy_(torch.cat([columns, rows], dim=1))  # a new model's are zeros
    model = randomised(model)
    network = saved(model, tmp_path / "model")
    assert network.notes == ()
    assert_equal_reconstructions(network, model)


@pytest.mark.parametrize("kind", ["vit", "dinov2", "resnet"])
def test_image_processor(kind, tmp_path):
    """It makes of an image what our evaluations see; the centre may lie a pixel beside."""
    network = resnet_network() if kind == "resnet" else vit_network(image_size=224, **VITS[kind])
    write(network, tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    pixels = processor(images=Image.fromarray(image), return_tensors="np")["pixel_values"]
    expected = normalise(jnp.asarray(evaluation_view(image, 224), jnp.float32)[None] / 255)
    np.testing.assert_allclose(pixels.transpose(0, 2, 3, 1), expected, atol=1e-5)


def test_vit_s_at_full_size(tmp_path):
    network = vit_network(image_size=224, patch_size=16, width=384, depth=12, heads=6)
    write(network, tmp_path)
    assert_equal_features(network, load(transformers.ViTModel, tmp_path), (224, 224), (160, 224))


def repeated(model):
    """Return parameters of a model in the time that memory takes: one array's numbers over and over."""
    numbers = np.random.default_rng(0).normal(scale=0.02, size=1_000_003).astype(np.float32)

    def draw(path, leaf):
        array = np.resize(numbers, leaf.shape)
        array += {"scale": 1.0, "gamma": 0.5}.get(path[-1].key, 0.0)
        return array

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0)))


def write_shards(state, folder, arrays=100):
    """Write a state dict as several files and the index that says which holds what; the dict is emptied."""
    names, places = sorted(state), {}
    for start in range(0, len(names), arrays):
        file = f"model-{start:05}.safetensors"
        places |= dict.fromkeys(names[start : start + arrays], file)
        save_file({name: state.pop(name) for name in names[start : start + arrays]}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_vit_g_at_full_size(tmp_path):
    """DINOv2's largest, 1.1 billion parameters; memory peaks at the weights twice over."""
    arguments = {"name": "vit", "size": "g", "image_size": 518, "patch_size": 14, "mlp": "swiglu", "layer_scale": 1.0}
    arguments["mask_token"] = True
    network = Network({"encoder": arguments}, {"encoder": repeated(model_of(arguments))})
    pixels = images(112, 112, count=1)
    expected, config, state = ours(network, pixels), config_files(network)["config.json"], to_state(network)
    del network
    write_shards(state, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    np.testing.assert_allclose(expected, theirs(load(transformers.Dinov2Model, tmp_path), pixels), rtol=0, atol=1e-4)
