"""ResNets under torchvision's names: there and back, and the names of its own code."""

import jax
import numpy as np
import pytest
from released import MLP, RESNET, VIT, assert_same_bytes, assert_same_params, listed, network, shapes

from ssljax.errors import InputError
from ssljax.export import resnets
from ssljax.export.network import Network, check_shapes


@pytest.mark.parametrize("bottleneck", [False, True])
def test_there_and_back(bottleneck):
    arguments = RESNET | dict(bottleneck=bottleneck, depth=50 if bottleneck else 18)
    ours = network(encoder=arguments)
    state = resnets.to_state(ours)
    assert resnets.recognises(state)
    assert all(array.flags["C_CONTIGUOUS"] for array in state.values())
    back = resnets.from_state(state, {})
    assert back.arguments["encoder"] == arguments
    check_shapes(back, "the file")
    assert_same_params(back.params["encoder"], ours.params["encoder"])
    assert_same_bytes(resnets.to_state(back), state)
    assert [note.split()[0] for note in back.notes] == ["num_batches_tracked"]


@pytest.mark.parametrize("depth", [18, 34, 50, *(pytest.param(d, marks=pytest.mark.long) for d in (101, 152))])
def test_named_depths_are_found_by_their_blocks(depth):
    ours = shapes(dict(name="resnet", depth=depth, width_multiplier=1 / 64))
    back = resnets.from_state(resnets.to_state(Network({"encoder": {"name": "resnet"}}, {"encoder": ours})), {})
    assert back.arguments["encoder"]["depth"] == depth
    assert back.arguments["encoder"]["width_multiplier"] == 1 / 64


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_names_and_shapes_are_torchvisions_and_timms(depth, library):
    arguments = dict(name="resnet", depth=depth)
    state = resnets.to_state(Network({"encoder": arguments}, {"encoder": shapes(arguments)}))
    theirs = listed(f"{library}_resnet{depth}")
    assert {name: array.shape for name, array in state.items()} == {
        name: shape for name, shape in theirs.items() if not name.startswith("fc.")
    }
    assert {array.dtype for name, array in state.items() if name.endswith("num_batches_tracked")} == {np.dtype("int64")}


def test_the_layout_is_pytorchs():
    ours = network(encoder=RESNET)
    kernel = ours.params["encoder"]["layer2_0"]["shortcut"]["kernel"]
    theirs = resnets.to_state(ours)["layer2.0.downsample.0.weight"]
    assert kernel.shape == (1, 1, 8, 16) and theirs.shape == (16, 8, 1, 1)
    assert theirs[3, 5, 0, 0] == kernel[0, 0, 5, 3]


def test_a_classifier_is_noted():
    state = resnets.to_state(network(encoder=RESNET)) | {"fc.weight": np.zeros((10, 64)), "fc.bias": np.zeros(10)}
    back = resnets.from_state(state, {})
    assert sum("classifier (fc)" in note for note in back.notes) == 1


def test_networks_that_it_has_no_names_for():
    with pytest.raises(InputError, match="leave out the projector"):
        resnets.to_state(network(encoder=RESNET, projector=MLP))
    with pytest.raises(InputError, match="for a ResNet, and the encoder is a 'vit'"):
        resnets.to_state(network(encoder=VIT))
    with pytest.raises(InputError, match="stem is 'cifar'"):
        resnets.to_state(network(encoder=RESNET | {"stem": "cifar"}))


def test_bad_states_are_told():
    state = resnets.to_state(network(encoder=RESNET))
    for name, value, message in (
        ("layer1.0.conv4.gain", np.zeros(3), "'layer1.0.conv4.gain' is none of a ResNet"),
        ("layer5.1.conv1.weight", np.zeros((1, 1, 1, 1)), "lack layer5.0"),
        ("conv1.weight", np.zeros((64, 3, 3, 3)), r"conv1.weight has shape \[64, 3, 3, 3\]"),
        ("bn1.weight", np.zeros((2, 2)), r"'bn1.weight' has shape \[2, 2\]"),
        ("conv1.bias", np.zeros(8), "'conv1.bias' is none"),
    ):
        with pytest.raises(InputError, match=message):
            resnets.from_state(state | {name: value}, {})
    with pytest.raises(InputError, match="lack conv1.weight"):
        resnets.from_state({name: array for name, array in state.items() if name != "conv1.weight"}, {})
    missing = {name: array for name, array in state.items() if not name.startswith("layer2.0.")}
    with pytest.raises(InputError, match="lack layer2.0, a block"):
        resnets.from_state(missing, {})
    assert not resnets.recognises(jax.tree.map(np.asarray, {"cls_token": np.zeros(1)}))
