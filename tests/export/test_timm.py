"""timm's names and config: there and back, and the names of timm's own models."""

import math

import numpy as np
import pytest
from released import DECODER, RESNET, VIT, assert_same_bytes, assert_same_params, listed, network, shapes

from ssljax.errors import InputError
from ssljax.export import timm
from ssljax.export.network import Network

ANTIALIASED = VIT | dict(position_offset=0.0, position_antialias=True)
DINOV2 = ANTIALIASED | dict(registers=4, layer_scale=1e-5)
WIDE = RESNET | dict(width_multiplier=1.0)


def config(ours):
    return timm.config_files(ours)["config.json"]


@pytest.mark.parametrize(
    "arguments",
    [
        ANTIALIASED,
        ANTIALIASED | dict(patch_size=4, heads=3, mlp_ratio=2.0),
        ANTIALIASED | dict(mlp="swiglu", layer_scale=1e-5, patch_size=16, image_size=48),
        ANTIALIASED | dict(size="ti", width=192, depth=12, heads=3, image_size=28, patch_size=14),
    ],
)
def test_there_and_back(arguments):
    ours = network(encoder=arguments)
    state = timm.to_state(ours)
    assert timm.recognises(state)
    back = timm.from_state(state, config(ours))
    assert back.arguments["encoder"] == arguments
    assert_same_params(back.params["encoder"], ours.params["encoder"])
    assert_same_bytes(timm.to_state(back), state)
    assert config(back) == config(ours)


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_with_registers_the_position_of_cls_is_part_of_its_token(mlp):
    ours = network(encoder=DINOV2 | dict(mlp=mlp, mask_token=True))
    state = timm.to_state(ours)
    assert state["pos_embed"].shape == (1, 16, 48) and state["reg_token"].shape == (1, 4, 48)
    assert not any("mask_token" in name or ".w12." in name for name in state)
    back = timm.from_state(state, config(ours))
    assert back.arguments["encoder"] == DINOV2 | dict(mlp=mlp)
    assert any("position of CLS" in note for note in back.notes)
    one, other = (net.params["encoder"] for net in (ours, back))
    np.testing.assert_array_equal(other["cls"] + other["position"][0], one["cls"] + one["position"][0])
    np.testing.assert_array_equal(other["position"][1:], one["position"][1:])
    assert_same_params(other["blocks"], one["blocks"])
    assert_same_bytes(timm.to_state(back), state)


def test_positions_of_registers_are_added_to_them():
    """timm's own models with registers and `no_embed_class=False` have them."""
    ours = network(encoder=DINOV2)
    state = timm.to_state(ours)
    more = np.random.default_rng(0).normal(size=(1, 5, 48)).astype(np.float32)
    whole = state | {"pos_embed": np.concatenate([more, state["pos_embed"]], axis=1)}
    back = timm.from_state(whole, {"model_args": {"no_embed_class": False}})
    np.testing.assert_array_equal(back.params["encoder"]["register"], (state["reg_token"] + more[:, 1:])[0])
    np.testing.assert_array_equal(back.params["encoder"]["position"][0], more[0, 0])
    assert any("positions of the registers" in note for note in back.notes)
    assert_same_params(timm.from_state(whole, {}).params, back.params)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_resnet_there_and_back(bottleneck):
    arguments = WIDE | dict(bottleneck=bottleneck, depth=50 if bottleneck else 18)
    ours = Network({"encoder": arguments}, {"encoder": shapes(arguments)})
    state = timm.to_state(ours)
    assert timm.recognises(state)
    back = timm.from_state(state, config(ours))
    assert back.arguments["encoder"] == arguments
    assert config(ours)["architecture"] == f"resnet{arguments['depth']}"
    assert config(ours)["model_args"] == {"layers": [1, 2, 1, 1]}


S = dict(name="vit", size="s", image_size=224, patch_size=16, heads=6, layer_scale=None, norm_eps=1e-6)
REG = S | dict(image_size=518, patch_size=14, registers=4, layer_scale=1.0, mask_token=True)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_small_patch16_224", S),
        ("vit_small_patch14_reg4_dinov2", REG),
        ("vit_giant_patch14_reg4_dinov2", REG | dict(size="g", heads=24, mlp="swiglu")),
    ],
)
def test_names_and_shapes_are_timms(name, arguments):
    """One block stands for all: nothing is allocated but it."""
    one = arguments | dict(depth=1)
    ours = Network({"encoder": one}, {"encoder": shapes(one)})
    assert {key: array.shape for key, array in timm.to_state(ours).items()} == listed(f"timm_{name}")
    written = config(ours)
    assert written["architecture"] == name
    assert written["model_args"]["num_heads"] == arguments["heads"]
    hidden = listed(f"timm_{name}")["blocks.0.mlp.fc1.weight"][0]
    assert int(written["num_features"] * written["model_args"]["mlp_ratio"]) == hidden


@pytest.mark.parametrize("width", [48, 100, 192, 384, 1000])
@pytest.mark.parametrize("hidden", [7, 64, 517, 4096])
def test_the_ratio_gives_the_hidden_width_back(width, hidden):
    assert int(width * timm.ratio_of(width, hidden)) == hidden
    assert math.isclose(timm.ratio_of(width, hidden), hidden / width)


def test_a_classifier_and_assumed_heads_are_noted():
    state = timm.to_state(network(encoder=ANTIALIASED)) | {"head.weight": np.zeros((9, 48)), "head.bias": np.zeros(9)}
    notes = timm.from_state(state, {}).notes
    assert [("classifier" in note, "heads" in note) for note in notes] == [(True, False), (False, True)]


def test_networks_that_it_has_no_names_for():
    with pytest.raises(InputError, match="leave out the decoder"):
        timm.to_state(network(encoder=VIT, decoder=DECODER))
    with pytest.raises(InputError, match="norms add 1e-12"):
        timm.to_state(network(encoder=VIT | {"norm_eps": 1e-12}))
    with pytest.raises(InputError, match="starts with 8 channels"):
        timm.to_state(network(encoder=RESNET))
    with pytest.raises(InputError, match="is a 'mae_decoder'"):
        timm.to_state(Network({"encoder": DECODER}, {"encoder": {}}))


def test_bad_states_are_told():
    state = timm.to_state(network(encoder=DINOV2))
    for name, value, message in (
        ("blocks.0.norm3.weight", np.zeros(48), "'blocks.0.norm3.weight' is none"),
        ("blocks.1.mlp.fc1.bias", np.zeros(7), "mlp.fc1.bias has shapes that differ"),
        ("blocks.0.attn.q_norm.weight", np.zeros(7), "'blocks.0.attn.q_norm.weight' is none"),
        ("patch_embed.proj.weight", np.zeros((48, 4, 8, 8)), "square patches of three channels"),
        ("pos_embed", np.zeros((1, 13, 48)), "8 positions besides"),
        ("pos_embed", np.zeros((16, 48)), "has not three axes"),
        ("cls_token", np.zeros(48), "'cls_token' has shape"),
    ):
        with pytest.raises(InputError, match=message):
            timm.from_state(state | {name: value}, {})
    for name in ("cls_token", "norm.bias", "pos_embed", "patch_embed.proj.bias"):
        with pytest.raises(InputError, match=f"lack {name}"):
            timm.from_state({key: array for key, array in state.items() if key != name}, {})
