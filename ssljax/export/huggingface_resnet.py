"""ResNets under the names of `transformers.ResNetModel`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from ssljax.errors import InputError
from ssljax.export.network import Network
from ssljax.models.resnet import DEPTHS

TYPES = ("resnet",)
FIRST = "embedder.embedder.convolution.weight"

KINDS = {
    "normalization.weight": "scale",
    "normalization.bias": "bias",
    "normalization.running_mean": "mean",
    "normalization.running_var": "var",
    "convolution.weight": "kernel",
}
"""What each of their layers holds: our norm's four arrays, and our convolution's kernel."""

PLACE = r"(embedder\.embedder|encoder\.stages\.(\d+)\.layers\.(\d+)\.(?:layer\.(\d+)|shortcut))"


def to_state(network: Network) -> dict[str, np.ndarray]:
    """Return the parameters and statistics under their names; see `huggingface.to_state`."""
    _check(network)
    theirs = {ours: name for name, ours in KINDS.items()}
    state: dict[str, np.ndarray] = {}
    for path, leaf in traverse_util.flatten_dict(network.params["encoder"], sep="/").items():
        *block, layer, kind = path.split("/")
        place = _theirs(block[0] if block else None, layer)
        array = np.transpose(leaf, (3, 2, 0, 1)) if kind == "kernel" else leaf
        state[f"{place}.{theirs[kind]}"] = np.ascontiguousarray(array, np.float32)
        state[f"{place}.normalization.num_batches_tracked"] = np.zeros((), np.int64)  # of no use, but asked for
    return state


def config(network: Network) -> dict[str, Any]:
    """Return config.json, every width from the arrays."""
    _check(network)
    params = network.params["encoder"]
    blocks = _blocks(params)
    bottleneck = "conv3" in params["layer1_0"]
    last = [params[f"layer{stage + 1}_0"][f"norm{3 if bottleneck else 2}"]["scale"] for stage in range(len(blocks))]
    return {
        "architectures": ["ResNetModel"],
        "model_type": "resnet",
        "num_channels": 3,
        "embedding_size": len(params["norm"]["scale"]),
        "hidden_sizes": [len(scale) for scale in last],
        "depths": blocks,
        "layer_type": "bottleneck" if bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }


def from_state(state: Mapping[str, np.ndarray], prefix: str, config: Mapping[str, Any]) -> Network:
    """Return the network of names that begin with `prefix`; see `huggingface.from_state`."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, value in state.items():
        array = np.asarray(value, np.float32)
        match = re.fullmatch(re.escape(prefix) + PLACE + r"\.(\w+\.\w+)", name)
        if match is None or match[5] not in KINDS:
            raise InputError(f"parameter {name!r} is none of a ResNet's in transformers")
        if array.ndim != (4 if match[5] == "convolution.weight" else 1):
            raise InputError(f"parameter {name!r} has the shape {list(array.shape)}, which no ResNet's has")
        layers.setdefault(match[1], {})[match[5]] = array
    params: dict[str, Any] = {}
    for place, arrays in layers.items():
        for missing in sorted(KINDS.keys() - arrays.keys()):
            raise InputError(f"the weights lack {prefix}{place}.{missing}")
        tree, convolution, norm = _ours(place, params)
        kernel = np.transpose(arrays["convolution.weight"], (2, 3, 1, 0))
        tree[convolution] = {"kernel": np.ascontiguousarray(kernel)}
        tree[norm] = {ours: arrays[name] for name, ours in KINDS.items() if ours != "kernel"}
    if "conv2" not in params.get("layer1_0", {}):
        raise InputError(f"the weights lack {prefix}encoder.stages.0.layers.0.layer.1.convolution.weight")
    blocks, bottleneck = _blocks(params), "conv3" in params["layer1_0"]
    known = next((depth for depth, made in DEPTHS.items() if made == (tuple(blocks), bottleneck)), None)
    width = params["norm"]["scale"].shape[0]
    arguments = {
        "name": "resnet",
        "depth": known or (50 if bottleneck else 18),
        "blocks": blocks,
        "bottleneck": bottleneck,
        "width_multiplier": width // 64 if width % 64 == 0 else width / 64,
        "stem": "imagenet",
    }
    notes = []
    if bottleneck and "downsample_in_bottleneck" not in config:
        notes.append("Strides are assumed to be in the 3x3 convolutions (ResNet v1.5), which the file does not say.")
    return Network({"encoder": arguments}, {"encoder": params}, notes=tuple(notes))


def _check(network: Network) -> None:
    if network.arguments["encoder"].get("stem", "imagenet") != "imagenet":
        raise InputError("transformers' ResNetModel begins with a 7x7 convolution and has no stem 'cifar'")


def _blocks(params: Mapping[str, Any]) -> list[int]:
    """Return the number of blocks of each stage, as far as they are numbered without a gap."""
    stages = [int(match[1]) for name in params if (match := re.fullmatch(r"layer(\d+)_\d+", name))]
    return [stages.count(stage) for stage in range(1, max(stages) + 1)]


def _theirs(block: str | None, layer: str) -> str:
    if block is None:
        return "embedder.embedder"
    stage, i = re.fullmatch(r"layer(\d+)_(\d+)", block).groups()  # type: ignore[union-attr]
    part = "shortcut" if layer.startswith("shortcut") else f"layer.{int(layer[-1]) - 1}"
    return f"encoder.stages.{int(stage) - 1}.layers.{i}.{part}"


def _ours(place: str, params: dict[str, Any]) -> tuple[dict[str, Any], str, str]:
    """Return where a layer of theirs goes in our tree, and what its convolution and its norm are called there."""
    match = re.fullmatch(PLACE, place)
    assert match is not None
    if match[2] is None:
        return params, "conv", "norm"
    tree = params.setdefault(f"layer{int(match[2]) + 1}_{match[3]}", {})
    if match[4] is None:
        return tree, "shortcut", "shortcut_norm"
    return tree, f"conv{int(match[4]) + 1}", f"norm{int(match[4]) + 1}"
