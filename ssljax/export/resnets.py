"""ResNets under torchvision's names, which timm, DINO and MoCo v3 share; their batch norms and convolutions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from ssljax.errors import InputError
from ssljax.export.network import Network
from ssljax.models.pure import Params
from ssljax.models.resnet import DEPTHS

NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
"""A batch norm's arrays, ours and theirs."""
COUNT = "num_batches_tracked"
COUNTED = f"{COUNT} of the batch norms: how many batches they have seen, which nothing here depends on."
CLASSIFIER = "The classifier ({}): an encoder has none."
_SHORTCUT = {"shortcut": "downsample.0", "shortcut_norm": "downsample.1"}
_NAME = re.compile(r"(?:layer(\d+)\.(\d+)\.)?(conv|bn|downsample\.)(\d)\.(\w+)")


def to_state(network: Network) -> dict[str, np.ndarray]:
    """Return a ResNet encoder as a state dict of torchvision's, less the classifier's `fc`.

    Raises:
        InputError: If the network has other parts, or its encoder is no ResNet with torchvision's stem.
    """
    if other := sorted(network.params.keys() - {"encoder"}):
        raise InputError(f"torchvision's names are for an encoder alone: leave out the {', '.join(other)}")
    return resnet_to_torch(network.arguments["encoder"], network.params["encoder"])


def config_files(network: Network) -> dict[str, dict[str, Any]]:
    """Return {}: torchvision has no config."""
    return {}


def recognises(state: Mapping[str, np.ndarray]) -> bool:
    """Return whether the names are those of a ResNet."""
    return "conv1.weight" in state and "layer1.0.conv1.weight" in state


def from_state(state: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Network:
    """Return the ResNet of a state dict of torchvision's; the classifier is left out.

    Raises:
        InputError: If a parameter is unknown or a block is missing.
    """
    arguments, params, notes = read_resnet(state)
    return Network({"encoder": arguments}, {"encoder": params}, notes=notes)


def resnet_to_torch(arguments: Mapping[str, Any], params: Params) -> dict[str, np.ndarray]:
    """Return a ResNet's parameters and statistics under torchvision's names, in PyTorch's layouts.

    Raises:
        InputError: If it is none, or its stem is not torchvision's.
    """
    if arguments["name"] != "resnet":
        raise InputError(f"torchvision's names are for a ResNet, and the encoder is a {arguments['name']!r}")
    if arguments.get("stem", "imagenet") != "imagenet":
        raise InputError(
            f"the ResNet's stem is {arguments['stem']!r}, a 3x3 convolution without max pool, which torchvision, timm, "
            "DINO and MoCo v3 have not: take the format safetensors or npz"
        )
    state: dict[str, np.ndarray] = {}
    for path, leaf in traverse_util.flatten_dict(params, sep="/").items():
        *block, layer, kind = path.split("/")
        prefix = "".join(f"{name.replace('_', '.')}." for name in block)
        if kind == "kernel":
            name = _SHORTCUT.get(layer, layer if block else "conv1")
            state[f"{prefix}{name}.weight"] = np.ascontiguousarray(np.asarray(leaf, np.float32).transpose(3, 2, 0, 1))
            continue
        name = _SHORTCUT.get(layer, layer.replace("norm", "bn") if block else "bn1")
        state[f"{prefix}{name}.{NORM[kind]}"] = np.asarray(leaf, np.float32)
        if kind == "var":
            state[f"{prefix}{name}.{COUNT}"] = np.zeros((), np.int64)
    return state


def read_resnet(state: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], Params, tuple[str, ...]]:
    """Return the arguments, parameters (statistics among them) and what was left out of a state dict of torchvision's.

    Raises:
        InputError: If a parameter is unknown or of an impossible shape, or a block is missing.
    """
    flat: dict[str, np.ndarray] = {}
    notes: dict[str, None] = {}
    for name, value in state.items():
        if name in ("fc.weight", "fc.bias"):
            notes[CLASSIFIER.format("fc")] = None
        elif name.endswith(f".{COUNT}"):
            notes[COUNTED] = None
        else:
            flat[_path(name)] = _array(name, value)
    if "conv/kernel" not in flat:
        raise InputError("the weights lack conv1.weight, which every ResNet has")
    if flat["conv/kernel"].shape[:3] != (7, 7, 3):
        raise InputError(
            f"conv1.weight has shape {list(np.shape(state['conv1.weight']))}: a ResNet of torchvision's starts with "
            "7x7 filters of three channels"
        )
    params = traverse_util.unflatten_dict(flat, sep="/")
    return _arguments(params), params, tuple(notes)


def _arguments(params: Params) -> dict[str, Any]:
    """Return what makes a ResNet of these shapes."""
    present = {tuple(map(int, name.removeprefix("layer").split("_"))) for name in params if name.startswith("layer")}
    stages = max((stage for stage, _ in present), default=0)
    blocks = [sum(stage == s for stage, _ in present) for s in range(1, stages + 1)]
    wanted = {(s, i) for s, count in enumerate(blocks, 1) for i in range(count)}
    if not wanted or wanted != present:
        stage, block = min(wanted - present, default=(1, 0))
        raise InputError(f"the weights lack layer{stage}.{block}, a block of the ResNet")
    bottleneck = "conv3" in params["layer1_0"]
    depth = {value: depth for depth, value in DEPTHS.items()}.get((tuple(blocks), bottleneck))
    return {
        "name": "resnet",
        "depth": depth or (50 if bottleneck else 18),
        "blocks": blocks,
        "bottleneck": bottleneck,
        "width_multiplier": params["conv"]["kernel"].shape[-1] / 64,
        "stem": "imagenet",
    }


def _path(name: str) -> str:
    """Return our path of torchvision's name."""
    match = _NAME.fullmatch(name)
    if match:
        stage, block, kind, number, leaf = match.groups()
        layers = {"conv": f"conv{number}", "bn": f"norm{number}"} | dict(zip(("0", "1"), _SHORTCUT, strict=True))
        layer = layers.get(number if kind == "downsample." else kind)
        if stage is None:
            layer = {"conv1": "conv", "norm1": "norm"}.get(layer or "")
        convolution = kind == "conv" or (kind, number) == ("downsample.", "0")
        leaves = {"weight": "kernel"} if convolution else {theirs: ours for ours, theirs in NORM.items()}
        if layer and leaf in leaves:
            return "/".join([*([f"layer{stage}_{block}"] if stage else []), layer, leaves[leaf]])
    raise InputError(f"parameter {name!r} is none of a ResNet of torchvision's")


def _array(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value, np.float32)
    if array.ndim not in (1, 4):
        raise InputError(f"parameter {name!r} has shape {list(array.shape)}, which no ResNet's has")
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0)) if array.ndim == 4 else array
