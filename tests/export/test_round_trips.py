"""What is written is read, kept as a run and written again: the same bytes, and the same features."""

import functools
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from released import DECODER, HEAD, MLP, RESNET, VIT, assert_same_params, model, network

from ssljax.cli import main
from ssljax.export import read_network, write_network
from ssljax.export.formats import FORMATS
from ssljax.export.official import to_state
from ssljax.export.runs import network_of_run, write_run

RATIO = VIT | dict(position_offset=0.0)  # positions are interpolated by the ratio of sizes, as in MAE and MoCo v3
V2 = VIT | dict(layer_scale=0.5, mask_token=True)
REGISTERS = V2 | dict(registers=4, position_offset=0.0, position_antialias=True)
NETWORKS = {
    "vit, patches of 8": dict(encoder=VIT),
    "vit, patches of 14": dict(encoder=VIT | dict(patch_size=14, image_size=42, heads=3)),
    "vit, patches of 16": dict(encoder=VIT | dict(patch_size=16, norm_eps=1e-5, mlp_ratio=2.5)),
    "sincos": dict(encoder=VIT | dict(positions="sincos")),
    "LayerScale": dict(encoder=V2),
    "SwiGLU": dict(encoder=VIT | dict(mlp="swiglu")),
    "registers": dict(encoder=REGISTERS),
    "registers alone": dict(encoder=REGISTERS | dict(layer_scale=None, mask_token=False)),
    "basic": dict(encoder=RESNET),
    "bottleneck": dict(encoder=RESNET | dict(depth=50, bottleneck=True)),
    "wide": dict(encoder=RESNET | dict(width_multiplier=1, blocks=[1, 1, 1, 1])),
    "cifar": dict(encoder=RESNET | dict(stem="cifar")),
    "mae": dict(encoder=RATIO, decoder=DECODER),
    "head": dict(encoder=VIT, head=HEAD),
    "lengths": dict(encoder=VIT, head=HEAD | dict(norm_last_layer=False)),
    "lengths of one": dict(encoder=VIT, head=HEAD | dict(norm_last_layer=False)),
    "patch head": dict(encoder=REGISTERS, head=HEAD, patch_head=HEAD | dict(prototypes=12)),
    "moco": dict(encoder=RATIO, projector=MLP, predictor=MLP | dict(width=8, layers=2)),
    "moco of a resnet": dict(encoder=RESNET, projector=MLP | dict(width=64, layers=2)),
}
RESNETS = ["basic", "bottleneck", "wide", "cifar", "moco of a resnet"]
HEADS = ["mae", "head", "lengths", "lengths of one", "patch head", "moco", "moco of a resnet"]
BARE = [name for name in NETWORKS if name not in HEADS]
HELD = {
    "safetensors": list(NETWORKS),
    "npz": list(NETWORKS),
    "dino": [name for name in NETWORKS if name != "cifar"],
    "timm": [name for name in BARE if name not in ("basic", "bottleneck", "cifar", "vit, patches of 16")],
    "transformers": [*(name for name in BARE if name != "cifar"), "mae"],
    "torchvision": ["basic", "bottleneck", "wide"],
}
"""By format what it can hold: timm's ResNets start with 64 channels, and its layer norms' epsilon is 1e-6."""

SOURCE = {
    "objective": "dino",
    "step": 100,
    "samples": 25600,
    "image_size": 32,
    "data": {"name": "images", "data": "flowers"},
    "metrics": {"knn": {"top1": 61.25}},
    "config": {"seed": 0, "objective": {"name": "dino"}},
    "license": "CC BY 4.0: ask",
}


@functools.cache
def made(name):
    """Return a network of random weights that says where it comes from."""
    arguments = NETWORKS[name]
    ours = network(**arguments)._replace(source=SOURCE, averaged=name == "head")
    if name == "lengths of one":
        ours.params["head"]["last"]["gain"] = np.ones(24, np.float32)
    if arguments["encoder"].get("positions") == "sincos":  # as `network_of` makes of it: positions are written out
        fixed = model(arguments["encoder"])(ours.params["encoder"], (4, 4), method="positions")
        ours.params["encoder"]["position"] = np.asarray(fixed)
        ours.arguments["encoder"]["positions"] = "learned"
    return ours


def contents(place):
    """Return the bytes of a file, or of a folder's files by name."""
    return {file.name: file.read_bytes() for file in place.iterdir()} if place.is_dir() else place.read_bytes()


def assert_same_files(one, other):
    assert contents(one) == contents(other)


@pytest.mark.parametrize(("format", "name"), [(format, name) for format, names in HELD.items() for name in names])
def test_there_and_back(format, name, tmp_path):
    ours = made(name)
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "half", tmp_path / "half again"]
    write_network(ours, folders[0], format=format)
    back = read_network(folders[0])
    write_network(back, folders[1], format=format)
    assert_same_files(*folders[:2])
    assert (back.source, back.averaged, back.notes) == (SOURCE, ours.averaged, ())
    assert "README.md" in contents(folders[0])

    dtype = "bfloat16" if format != "npz" else "float16"
    write_network(ours, folders[2], format=format, dtype=dtype)
    write_network(read_network(folders[2]), folders[3], format=format, dtype=dtype)
    assert_same_files(*folders[2:])

    lost = {"timm": ("mask_token",), "transformers": ()}.get(format, ())
    folded = format == "timm" and ours.arguments["encoder"].get("registers")
    expected = {role: dict(arguments) for role, arguments in ours.arguments.items()}
    expected["encoder"] |= {key: False for key in lost if key in expected["encoder"]}
    assert back.arguments == expected
    params = {role: dict(part) for role, part in ours.params.items()}
    for key in ("mask",) if lost else ():
        params["encoder"].pop(key, None)
    if folded:  # the position of CLS is part of its token there
        position = params["encoder"]["position"].copy()
        params["encoder"]["cls"], position[0] = params["encoder"]["cls"] + position[0], 0.0
        params["encoder"]["position"] = position
    assert_same_params(back.params, params)  # of the same arguments: the features are the same as well
