"""transformers' names: there and back, those that transformers itself wrote, and what is refused."""

import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from hub_networks import TINY, VITS, mae_network, resnet_network, vit_network
from PIL import Image

from ssljax.data.images import evaluation_view
from ssljax.errors import InputError
from ssljax.export.huggingface import config_files, from_state, recognises, to_state
from ssljax.export.network import Network

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "transformers_names.json").read_text())


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_there_and_back(network):
    """Write, read and write again; return what was read."""
    state, config = to_state(network), config_files(network)["config.json"]
    assert recognises(state)
    assert all(array.flags["C_CONTIGUOUS"] for array in state.values())
    again = from_state(state, json.loads(json.dumps(config)))
    written = to_state(again)
    assert list(written) == list(state)
    assert all(written[name].tobytes() == array.tobytes() for name, array in state.items())
    assert config_files(again) == config_files(network)
    return again


@pytest.mark.parametrize("kind", VITS)
def test_vit_there_and_back(kind):
    network = vit_network(**VITS[kind])
    again = assert_there_and_back(network)
    assert again.notes == ()
    ours, theirs = network.arguments["encoder"], again.arguments["encoder"]
    assert {name: theirs[name] for name in ours} == ours
    assert_same(again.params, network.params)


def test_stand_ins_are_left_out_where_they_do_nothing():
    network = vit_network(width=384, depth=12, heads=6, registers=2)
    again = from_state(to_state(network), {})
    assert_same(again.params, network.params)
    assert again.notes[:2] == (
        "LayerScales of one, which scale nothing, were left out.",
        "A mask token of zeros was left out.",
    )
    state, config = to_state(network), config_files(network)["config.json"]
    state["encoder.layer.3.layer_scale1.lambda1"][5] = 0.9  # as after training elsewhere
    state["embeddings.mask_token"][0, 5] = 0.1
    again = from_state(state, config)
    assert again.arguments["encoder"]["layer_scale"] == 1.0 and again.arguments["encoder"]["mask_token"]
    kept = vit_network(registers=2, mask_token=True)
    kept.params["encoder"]["mask"][:] = 0.0
    assert_same(assert_there_and_back(kept).params, kept.params)


def test_mae_there_and_back():
    network = mae_network(mask_ratio=0.6, norm_pix_loss=False)
    again = assert_there_and_back(network)
    assert_same(again.params, network.params)
    ours, theirs = network.arguments["decoder"], again.arguments["decoder"]
    assert {name: theirs[name] for name in ours} == ours
    assert config_files(again)["config.json"]["mask_ratio"] == 0.6
    del again.params["decoder"]
    assert config_files(again)["config.json"]["architectures"] == ["ViTModel"]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_halves_are_read(dtype):
    network = mae_network()
    state = {name: array.astype(dtype) for name, array in to_state(network).items()}
    again = from_state(state, config_files(network)["config.json"])
    expected = jax.tree.map(lambda leaf: np.asarray(leaf, dtype).astype(np.float32), network.params)
    assert_same(again.params, expected)


@pytest.mark.parametrize("arguments", [{}, {"depth": 18, "blocks": [2, 1], "bottleneck": False}])
def test_resnet_there_and_back(arguments):
    network = resnet_network(**arguments)
    again = assert_there_and_back(network)
    assert_same(again.params, network.params)
    assert {name: again.arguments["encoder"][name] for name in network.arguments["encoder"]} == (
        network.arguments["encoder"]
    )
    assert [note for note in again.notes if "num_batches_tracked" not in note] == []


@pytest.mark.parametrize(
    ("kind", "network"),
    [
        ("vit", lambda: vit_network(depth=1)),
        ("dinov2", lambda: vit_network(depth=1, mlp="swiglu", layer_scale=1.0, mask_token=True)),
        ("dinov2_with_registers", lambda: vit_network(depth=1, layer_scale=1.0, registers=2)),
        ("vit_mae", mae_network),
        ("resnet", lambda: resnet_network(blocks=[1, 1])),
    ],
)
def test_names_and_shapes_are_those_that_transformers_writes(kind, network):
    network = network()
    written = {name: list(array.shape) for name, array in to_state(network).items()}
    expected = dict(GOLDEN[kind])
    if kind == "vit_mae":  # two blocks here, its MLPs half as wide
        written = {name: shape for name, shape in written.items() if ".1." not in name}
        expected = {
            name: [64 if n == 128 else n for n in shape] if name.startswith("decoder") else shape
            for name, shape in expected.items()
        }
    assert written == expected
    assert config_files(network)["config.json"]["model_type"] == kind


def version_5(state):
    """Return a state dict under the names of version 5's modules."""
    renames = [
        ("encoder.layer.", "layers."),
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
        ("mlp.weights_out", "mlp.down_proj"),
    ]
    renamed = {}
    for name, array in state.items():
        for old, new in renames:
            name = name.replace(old, new)
        if "weights_in" in name:
            for part, half in zip(("gate_proj", "up_proj"), np.split(array, 2), strict=True):
                renamed[name.replace("weights_in", part)] = half
        else:
            renamed[name] = array
    return renamed


@pytest.mark.parametrize("prefix", ["", "dinov2."])
@pytest.mark.parametrize("kind", ["vit", "dinov2 with swiglu"])
def test_other_versions_and_prefixes(kind, prefix):
    network = vit_network(**VITS[kind])
    state, config = to_state(network), config_files(network)["config.json"]
    extra = {f"{prefix}pooler.dense.weight": np.zeros((48, 48)), "classifier.weight": np.zeros((10, 48))}
    extra["classifier.bias"] = np.zeros(10)
    again = from_state({prefix + name: array for name, array in version_5(state).items()} | extra, config)
    assert_same(again.params, network.params)
    assert len(again.notes) == 2 and "classifier.bias, classifier.weight" in again.notes[0] + again.notes[1]


def test_what_only_convention_knows_is_said():
    network = vit_network(width=384, depth=12, heads=6, norm_eps=1e-12, mlp_ratio=0.5)
    again = from_state(to_state(network), {})
    arguments = network.arguments["encoder"]
    assert {name: again.arguments["encoder"][name] for name in arguments} == arguments
    assert [("attention has: 6" in note, "layer_norm_eps: 1e-12" in note) for note in again.notes] == [
        (True, False),
        (False, True),
    ]
    decoder = from_state(to_state(mae_network()), {}).arguments["decoder"]
    assert decoder["heads"] == 16  # MAE's own
    assert "3x3" in from_state(to_state(resnet_network()), {}).notes[-1]


def test_queries_without_biases_get_zeros():
    network = vit_network()
    state = {
        name: a for name, a in to_state(network).items() if "attention.attention" not in name or "bias" not in name
    }
    again = from_state(state, config_files(network)["config.json"] | {"qkv_bias": False})
    assert not again.params["encoder"]["blocks"]["attention"]["qkv"]["bias"].any()
    assert "no biases" in again.notes[0]


@pytest.mark.parametrize("shape", [(100, 150), (224, 224), (333, 260)])
@pytest.mark.parametrize("size", [32, 224])
def test_preprocessing_is_the_evaluations(shape, size):
    """Resizing and the centre that is cut out, by the file's numbers with Pillow."""
    said = config_files(vit_network(image_size=size))["preprocessor_config.json"]
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    short, (height, width) = said["size"]["shortest_edge"], shape
    scaled = (int(short * width / height), short) if height <= width else (short, int(short * height / width))
    resized = np.asarray(Image.fromarray(image).resize(scaled, said["resample"]))
    top, left = (round((n - size) / 2) for n in resized.shape[:2])
    expected = resized[top : top + said["crop_size"]["height"], left : left + said["crop_size"]["width"]]
    np.testing.assert_array_equal(evaluation_view(image, size), expected)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: resnet_network(stem="cifar"), "no stem 'cifar'"),
        (lambda: vit_network(layer_scale=0.1, mlp_ratio=2.5), "mlp_ratio is 2.5, but transformers' DINOv2 takes whole"),
        (lambda: Network({"encoder": {"name": "my.Net"}}, {"encoder": {}}), "'my.Net', which transformers has no"),
        (lambda: with_part(vit_network(), "head"), "no place for the head"),
        (lambda: with_part(resnet_network(), "decoder"), "no place for the decoder"),
        (lambda: changed(mae_network(), "encoder", registers=2), "ViTMAE has no registers"),
        (lambda: changed(mae_network(), "encoder", mask_token=True), "ViTMAE has no mask token"),
        (lambda: changed(mae_network(), "decoder", norm_eps=1e-5), "one norm_eps, but the encoder's is 1e-06 and"),
    ],
)
def test_what_no_class_is_is_refused(network, message):
    network = network()
    with pytest.raises(InputError, match=message):
        config_files(network)


def with_part(network, role):
    return network._replace(params=network.params | {role: {}})


def changed(network, role, **arguments):
    return network._replace(arguments=network.arguments | {role: network.arguments[role] | arguments})


def without(name):
    return lambda state: {key: array for key, array in state.items() if name not in key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"head.weight": np.zeros((4, 4))}, "'head.weight' is none of a ViT's"),
        (without("1.layernorm_after.bias"), r"lack encoder\.layer\.1\.layernorm_after\.bias"),
        (without("layernorm_after.bias"), "no block has a bias of layernorm_after or norm2"),
        (without("encoder.layer.1.intermediate"), r"lack encoder\.layer\.1\.intermediate\.dense\.bias"),
        (without("key.weight"), r"2 of the 3 parts of blocks\.0\.attn\.qkv\.weight"),
        (without("encoder.layer.0."), r"lack encoder\.layer\.0\.attention"),
        (without("encoder.layer"), "no block has a weight of layernorm_before"),
        (without("cls_token"), r"lack embeddings\.cls_token"),
        (without("embeddings.patch"), "are of none of transformers'"),
        (lambda s: s | {"encoder.layer.0.norm1.bias": np.zeros(48)}, "twice, under the names of two versions"),
        (lambda s: s | {"layernorm.bias": np.zeros((1, 48))}, r"layernorm\.bias has the shape \[1, 48\]"),
        (
            lambda s: s | {"embeddings.patch_embeddings.projection.weight": np.zeros((48, 1, 8, 8))},
            "square patches of 3 colours",
        ),
        (lambda s: s | {"embeddings.position_embeddings": np.zeros((1, 16, 48))}, "15 patches, which make no square"),
    ],
)
def test_bad_vits(change, message):
    network = vit_network()
    with pytest.raises(InputError, match=message):
        from_state(change(to_state(network)), config_files(network)["config.json"])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"hidden_act": "quick_gelu"}, "has hidden_act 'quick_gelu', but the arrays are those of a model with 'gelu'"),
        ({"image_size": 64}, "has image_size 64, but the arrays are those of a model with 32"),
        ({"num_attention_heads": "3"}, "num_attention_heads '3': give a number"),
        ({"model_type": "deit"}, "has model_type 'deit'; these arrays can be read as vit or dinov2"),
    ],
)
def test_config_and_arrays_agree(entries, message):
    network = vit_network()
    config = config_files(network)["config.json"]
    from_state(to_state(network), config | {"image_size": [TINY["image_size"]] * 2})
    with pytest.raises(InputError, match=message):
        from_state(to_state(network), config | entries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("running_var"), r"lack embedder\.embedder\.normalization\.running_var"),
        (without("layers.0.layer.1"), r"lack encoder\.stages\.0\.layers\.0\.layer\.1\.convolution\.weight"),
        (without("embedder.normalization"), r"lack embedder\.embedder\.normalization\.bias"),
        (lambda s: s | {"encoder.stages.0.norm.bias": np.zeros(8)}, r"'encoder\.stages\.0\.norm\.bias' is none of"),
        (lambda s: s | {"embedder.embedder.normalization.bias": np.zeros((8, 1))}, r"has the shape \[8, 1\]"),
    ],
)
def test_bad_resnets(change, message):
    network = resnet_network()
    config = config_files(network)["config.json"]
    with pytest.raises(InputError, match=message):
        from_state(change(to_state(network)), config)


def test_bad_resnet_config():
    network = resnet_network()
    config = config_files(network)["config.json"] | {"downsample_in_bottleneck": True}
    with pytest.raises(InputError, match="has downsample_in_bottleneck True"):
        from_state(to_state(network), config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"decoder.decoder_pos_embed": s["decoder.decoder_pos_embed"] + 2e-2}, "fixed sines and cosines"),
        (lambda s: s | {"decoder.mask_token": np.zeros(32)}, r"decoder\.mask_token has the shape \[32\]"),
        (without("decoder.decoder_norm"), r"lack decoder\.decoder_norm\.weight"),
        (lambda s: s | {"decoder.other": np.zeros(3)}, r"'decoder\.other' is none of"),
        (without("decoder.decoder_layers.1.output"), r"lack decoder\.decoder_layers\.1\.output\.dense\.bias"),
    ],
)
def test_bad_decoders(change, message):
    network = mae_network()
    with pytest.raises(InputError, match=message):
        from_state(change(to_state(network)), config_files(network)["config.json"])
