"""The released names of DINO, DoRA, DINOv2, MAE and MoCo v3: there and back, and the names of their own code."""

import numpy as np
import pytest
from released import (
    DECODER,
    HEAD,
    MLP,
    RESNET,
    VIT,
    assert_same_bytes,
    assert_same_params,
    listed,
    network,
    shapes,
)

from ssljax.errors import InputError
from ssljax.export import mae_names, official
from ssljax.export.network import Network
from ssljax.ops.positions import sincos_positions

REGISTERS = VIT | dict(registers=4, layer_scale=1e-5, mask_token=True, position_offset=0.0, position_antialias=True)
SIZE_BASED = VIT | dict(position_offset=0.0)
PREDICTOR = MLP | dict(width=8, layers=2)
NETWORKS = {
    "dino": dict(encoder=VIT),
    "dino with registers": dict(encoder=REGISTERS),
    "dinov2": dict(encoder=VIT | dict(mlp="swiglu", layer_scale=1e-5, mask_token=True)),
    "resnet": dict(encoder=RESNET),
    "dino with head": dict(encoder=VIT, head=HEAD),
    "dino with a free head": dict(encoder=VIT, head=HEAD | dict(norm_last_layer=False, layers=2)),
    "dino of a resnet": dict(encoder=RESNET, head=HEAD | dict(width=64)),
    "dinov2 with heads": dict(encoder=REGISTERS, head=HEAD, patch_head=HEAD | dict(prototypes=12)),
    "mae": dict(encoder=SIZE_BASED, decoder=DECODER),
    "moco": dict(encoder=SIZE_BASED, projector=MLP, predictor=PREDICTOR),
    "moco of a resnet": dict(
        encoder=RESNET, projector=MLP | dict(width=64, layers=2), predictor=PREDICTOR | dict(last_norm=False)
    ),
    "simclr": dict(encoder=SIZE_BASED, projector=MLP),
}


def prefixed(prefix, state):
    return {f"{prefix}.{name}": array for name, array in state.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back(name):
    ours = network(**NETWORKS[name])
    state = official.to_state(ours)
    assert official.recognises(state)
    assert all(array.flags["C_CONTIGUOUS"] for array in state.values())
    back = official.from_state(state, {})
    assert back.arguments == ours.arguments
    assert_same_params(back.params, ours.params)
    assert (back.twin, back.averaged) == ({}, False)
    assert_same_bytes(official.to_state(back), state)


def one_block(**arguments):
    """Return a network of shapes whose stacks have a block each."""
    arguments = {role: some | ({"depth": 1} if "heads" in some else {}) for role, some in arguments.items()}
    return Network(arguments, {role: shapes(some) for role, some in arguments.items()})


S = dict(name="vit", size="s", image_size=224, patch_size=16, heads=6)
V2 = S | dict(image_size=518, patch_size=14, layer_scale=1.0, mask_token=True)
MOCO = dict(name="batch_norm_mlp", hidden=4096, outputs=256)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("dino_vit_small", dict(encoder=S)),
        ("dino_vit_small_with_head", dict(encoder=S, head=dict(name="dino_head", width=384))),
        ("dinov2_vits14", dict(encoder=V2)),
        ("dinov2_vitg14_reg", dict(encoder=V2 | dict(size="g", mlp="swiglu", registers=4))),
        (
            "mae_vit_base",
            dict(encoder=S | dict(size="b"), decoder=dict(name="mae_decoder", width=768, patch_size=16, heads=16)),
        ),
        (
            "mocov3_vit_small",
            dict(
                encoder=S | dict(heads=12),
                projector=MOCO | dict(width=384, layers=3),
                predictor=MOCO | dict(width=256, layers=2),
            ),
        ),
        (
            "mocov3_resnet50",
            dict(
                encoder=dict(name="resnet", depth=50),
                projector=MOCO | dict(width=2048, layers=2),
                predictor=MOCO | dict(width=256, layers=2, last_norm=False),
            ),
        ),
    ],
)
def test_names_and_shapes_are_the_released_codes(name, arguments):
    state = official.to_state(one_block(**arguments))
    assert {key: array.shape for key, array in state.items()} == listed(name)


def test_dinos_training_checkpoint():
    """As DINO and DoRA save it: the student under data parallelism, both with heads."""
    student, teacher = (network(seed, encoder=VIT, head=HEAD) for seed in (1, 2))
    state = prefixed("student.module", official.to_state(student)) | prefixed("teacher", official.to_state(teacher))
    state |= {"optimizer.state.0.exp_avg": np.zeros(3), "optimizer.state.1.exp_avg": np.zeros(3)}
    state |= {"dino_loss.center": np.zeros((1, 24)), "fp16_scaler.scale": np.zeros(1)}
    assert official.recognises(state)
    back = official.from_state(state, {})
    assert back.averaged and back.arguments == teacher.arguments
    assert_same_params(back.params, teacher.params)
    assert_same_params(back.twin, student.params)
    for word in ("(optimizer)", "(dino_loss)", "(fp16_scaler)", "1 are assumed"):
        assert sum(word in note for note in back.notes) == 1, back.notes
    alone = official.from_state({name: array for name, array in state.items() if "student" not in name}, {})
    assert alone.averaged and not alone.twin


def test_dinov2s_training_checkpoint_has_its_blocks_in_chunks():
    arguments = dict(encoder=REGISTERS, head=HEAD, patch_head=HEAD)
    student, teacher = (network(seed, **arguments) for seed in (1, 2))
    state = {}
    for name, ours in (("student", student), ("teacher", teacher)):
        for key, array in official.to_state(ours).items():
            chunked = key.replace("blocks.0.", "blocks.0.0.").replace("blocks.1.", "blocks.1.1.")
            state[f"model.{name}.{chunked}"] = array
    state |= {"model.dino_loss.center": np.zeros((1, 24)), "model.ibot_patch_loss.center": np.zeros((1, 1, 24))}
    back = official.from_state(state, {})
    assert_same_params(back.params, teacher.params)
    assert_same_params(back.twin, student.params)
    assert back.arguments == teacher.arguments and back.averaged


def test_maes_checkpoints():
    ours = network(encoder=SIZE_BASED, decoder=DECODER)
    back = official.from_state(prefixed("model", official.to_state(ours)), {})
    assert_same_params(back.params, ours.params)

    # the released encoders come without a decoder; their positions show whose they are
    fixed = mae_names.fixed_positions(48, 4)
    params = ours.params["encoder"] | {"position": fixed}
    state = prefixed("model", official.to_state(Network({"encoder": SIZE_BASED}, {"encoder": params})))
    back = official.from_state(state, {})
    assert back.arguments["encoder"] == SIZE_BASED
    assert any("as MAE does it" in note for note in back.notes)


@pytest.mark.parametrize(("width", "side"), [(384, 14), (512, 16)])
def test_fixed_positions_are_those_of_mae(width, side):
    """As MAE's code computes them, in float64: a half of the channels for the columns, the other for the rows."""
    omega = 10000.0 ** -(np.arange(width // 4) / (width // 4))
    rows, columns = np.indices((side, side)).reshape(2, -1)
    expected = [f(np.outer(axis, omega)) for axis in (columns, rows) for f in (np.sin, np.cos)]
    positions = mae_names.fixed_positions(width, side)
    np.testing.assert_allclose(positions[1:], np.concatenate(expected, axis=1), atol=1e-5)
    np.testing.assert_array_equal(positions[1:], sincos_positions(width, (side, side)))
    assert not positions[0].any() and mae_names.are_fixed(positions)


def test_pixels_of_a_patch_are_by_row_column_and_channel():
    """MAE's own `patchify`: nchpwq -> nhwpqc."""
    ours = network(encoder=SIZE_BASED, decoder=DECODER)
    weight, bias = (official.to_state(ours)[f"decoder_pred.{kind}"] for kind in ("weight", "bias"))
    row, column, channel = 5, 2, 1
    np.testing.assert_array_equal(
        weight.reshape(8, 8, 3, 32)[row, column, channel],
        ours.params["decoder"]["pixels"]["kernel"][:, (row * 8 + column) * 3 + channel],
    )
    assert bias.shape == (8 * 8 * 3,)


@pytest.mark.parametrize("encoder", [SIZE_BASED, RESNET])
def test_mocos_training_checkpoint(encoder):
    width = 48 if encoder is SIZE_BASED else 64
    arguments = dict(encoder=encoder, projector=MLP | dict(width=width))
    ours, average = network(1, **arguments, predictor=PREDICTOR), network(2, **arguments)
    state = prefixed("state_dict.module", official.to_state(ours))
    for name, array in official.to_state(average).items():
        state[f"state_dict.module.{name.replace('base_encoder', 'momentum_encoder')}"] = array
    state["optimizer.state.0.momentum_buffer"] = np.zeros(3)
    assert official.recognises(state)
    back = official.from_state(state, {})
    assert not back.averaged and back.arguments == ours.arguments
    assert_same_params(back.params, ours.params)
    assert_same_params(back.twin, average.params)


def test_mocos_vit_small_has_twelve_heads():
    ours = network(encoder=S | dict(depth=1, image_size=16), projector=MLP | dict(width=384))
    back = official.from_state(official.to_state(ours), {})
    assert back.arguments["encoder"]["heads"] == 12
    assert any("12 are assumed, as in MoCo v3" in note for note in back.notes)
    back = official.from_state(official.to_state(network(encoder=S | dict(depth=1, image_size=16))), {})
    assert back.arguments["encoder"]["heads"] == 6


def test_statistics_that_no_run_keeps_are_pytorchs_first():
    ours = network(encoder=SIZE_BASED, projector=MLP)
    projector = {
        name: {kind: array for kind, array in layer.items() if kind not in ("mean", "var")}
        for name, layer in ours.params["projector"].items()
    }
    state = official.to_state(ours._replace(params=ours.params | {"projector": projector}))
    np.testing.assert_array_equal(state["base_encoder.head.7.running_mean"], np.zeros(8))
    np.testing.assert_array_equal(state["base_encoder.head.1.running_var"], np.ones(16))
    assert state.keys() == official.to_state(ours).keys()


def test_classifiers_are_noted_and_buffers_are_read():
    state = official.to_state(network(encoder=VIT)) | {"head.weight": np.zeros((5, 48)), "head.bias": np.zeros(5)}
    assert sum("classifier (head)" in note for note in official.from_state(state, {}).notes) == 1
    state = official.to_state(network(encoder=RESNET)) | {"fc.weight": np.zeros((5, 64)), "fc.bias": np.zeros(5)}
    notes = official.from_state(state, {}).notes
    assert sum("classifier (fc)" in note for note in notes) == 1 and any("num_batches" in note for note in notes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(encoder=VIT, head=HEAD, decoder=DECODER), "names an encoder with decoder, head"),
        (dict(encoder=REGISTERS, decoder=DECODER), "without a mask token of its own"),
        (dict(encoder=RESNET, decoder=DECODER), "MAE's names are for a ViT"),
        (dict(encoder=RESNET | {"stem": "cifar"}), "stem is 'cifar'"),
    ],
)
def test_networks_that_it_has_no_names_for(arguments, message):
    with pytest.raises(InputError, match=message):
        official.to_state(network(**arguments))


def test_bad_states_are_told():
    moco = official.to_state(network(**NETWORKS["moco"]))
    mae = official.to_state(network(**NETWORKS["mae"]))
    dino = official.to_state(network(**NETWORKS["dino with head"]))
    for state, name, value, message in (
        (dino, "neck.weight", np.zeros(3), "'neck.weight' is none"),
        (dino, "backbone.head_dist.weight", np.zeros(3), "'head_dist.weight' is none"),
        (dino, "head.mlp.0.bias", None, "the head is none of DINO's"),
        (dino, "head.last_layer.weight_g", None, "the head lacks last_layer.weight_g"),
        (dino, "backbone.norm.weight", None, "lack norm.weight"),
        (dino, "student.norm.weight", np.zeros(48), "belongs to none of the file's networks"),
        (dino, "norm.weight", np.zeros(48), "holds 'norm.weight' twice"),
        (mae, "decoder_embed.weight", None, "lack decoder_embed.weight"),
        (mae, "decoder_blocks.0.attn.proj.bias", None, "attn.proj.bias for 1 of 2 blocks"),
        (mae, "decoder_pos_embed", mae["decoder_pos_embed"] + 1, "not MAE's fixed sines and cosines"),
        (mae, "decoder_neck", np.zeros(3), "'decoder_neck' is none of an MAE decoder's"),
        (mae, "decoder_norm.bias", None, "lack decoder_norm.bias"),
        (mae, "mask_token", None, "lack mask_token"),
        (moco, "predictor.1.weight", None, "the predictor is none of MoCo v3's"),
        (moco, "base_encoder.head.7.weight", np.zeros(8), "the projector is none of MoCo v3's"),
        (moco, "base_encoder.head.2.weight", np.zeros(8), "'2.weight' of the projector"),
        (moco, "teacher.norm.weight", np.zeros(8), "both 'teacher' and 'base_encoder'"),
    ):
        changed = {key: array for key, array in state.items() if key != name}
        with pytest.raises(InputError, match=message):
            official.from_state(changed | ({} if value is None else {name: value}), {})
    with pytest.raises(InputError, match="holds no weights of an encoder"):
        official.from_state({"optimizer.state.0.step": np.zeros(1)}, {})
    assert not official.recognises({"embeddings.cls_token": np.zeros(1)})
    other = prefixed("student", official.to_state(network(encoder=VIT | {"depth": 1}))) | prefixed("teacher", dino)
    with pytest.raises(InputError, match="networks of different shapes"):
        official.from_state(other, {})
