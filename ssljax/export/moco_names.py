"""MoCo v3's projector and predictor under the names of its released code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ssljax.errors import InputError
from ssljax.export.resnets import COUNT, NORM
from ssljax.models.pure import Params


def mlp_to_torch(arguments: Mapping[str, Any], params: Params) -> dict[str, np.ndarray]:
    """Return a BatchNormMLP as a state dict of an `nn.Sequential`: linear layers, each with its norm and ReLU.

    The running statistics of projectors and predictors, which no objective here keeps as nothing ever uses them, are
    written as PyTorch starts them where they are missing.
    """
    layers = sum(name.startswith("fc") for name in params)
    state: dict[str, np.ndarray] = {}
    for i in range(layers):
        kernel = np.asarray(params[f"fc{i + 1}"]["kernel"], np.float32)
        state[f"{3 * i}.weight"] = np.ascontiguousarray(kernel.T)
        if i + 1 == layers and not arguments.get("last_norm", True):
            continue
        outputs = kernel.shape[1]
        norm = {"mean": np.zeros(outputs, np.float32), "var": np.ones(outputs, np.float32)}
        norm |= params.get(f"norm{i + 1}", {})
        arrays = {theirs: np.asarray(norm[ours], np.float32) for ours, theirs in NORM.items() if ours in norm}
        arrays[COUNT] = np.zeros((), np.int64)
        state |= {f"{3 * i + 1}.{name}": array for name, array in arrays.items()}
    return state


def read_mlp(state: Mapping[str, np.ndarray], part: str) -> tuple[dict[str, Any], Params]:
    """Return the arguments and parameters, statistics among them, of a BatchNormMLP.

    Args:
        state: The `nn.Sequential`'s, by the numbers of its layers.
        part: What an error calls it.

    Raises:
        InputError: If a parameter is unknown, missing or of an impossible shape.
    """
    ours = {theirs: name for name, theirs in NORM.items()}
    params: Params = {}
    for name, value in state.items():
        match = re.fullmatch(r"(\d+)\.(\w+)", name)
        number, leaf = (int(match[1]), match[2]) if match else (2, "")
        array = np.asarray(value, np.float32)
        if number % 3 == 0 and leaf == "weight" and array.ndim == 2:
            params[f"fc{number // 3 + 1}"] = {"kernel": np.ascontiguousarray(array.T)}
        elif number % 3 == 1 and leaf in ours and array.ndim == 1:
            params.setdefault(f"norm{number // 3 + 1}", {})[ours[leaf]] = array
        elif number % 3 != 1 or leaf != COUNT:
            raise InputError(f"parameter {name!r} of the {part}, of shape {list(array.shape)}, is none of MoCo v3's")
    layers = sum(name.startswith("fc") for name in params)
    last_norm = f"norm{layers}" in params
    for i in range(1, layers + last_norm):
        wanted = {"scale", "bias", "mean", "var"} if i < layers else {"mean", "var"}
        if params.get(f"norm{i}", {}).keys() != wanted or f"fc{i}" not in params:
            raise InputError(f"the {part} is none of MoCo v3's: layers {3 * i - 3} and {3 * i - 2} of it are not")
    if not layers or f"fc{layers}" not in params:
        raise InputError(f"the {part} is none of MoCo v3's: a linear layer of it is missing")
    width, hidden = params["fc1"]["kernel"].shape
    outputs = params[f"fc{layers}"]["kernel"].shape[1]
    arguments = {"name": "batch_norm_mlp", "width": width, "hidden": hidden, "outputs": outputs, "layers": layers}
    return arguments | {"last_norm": last_norm}, params
