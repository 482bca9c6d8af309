"""Our parameters under DINO's names and in PyTorch's layouts, and back.

The names are those of DINO's released code and of timm, which are the same for a plain ViT; what DINO has not
(registers, LayerScale, SwiGLU, mask token) is named as in DINOv2, which timm reads too. DINO's head has its own
module's names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import einops
import numpy as np
from flax import traverse_util

from ssljax.errors import InputError
from ssljax.models.pure import Params

StateDict = Mapping[str, Any]


class _Layout(NamedTuple):
    """How an array of ours becomes one of theirs, and back."""

    to: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]


SAME = _Layout(lambda x: x, lambda x: x)
TRANSPOSED = _Layout(np.transpose, np.transpose)
TOKEN = _Layout(lambda x: x[None, None], lambda x: x[0, 0])
TOKENS = _Layout(lambda x: x[None], lambda x: x[0])
COLUMN = _Layout(lambda x: x[:, None], lambda x: x[:, 0])


def _to_convolution(kernel: np.ndarray) -> np.ndarray:
    p = math.isqrt(kernel.shape[0] // 3)
    return einops.rearrange(kernel, "(p q c) d -> d c p q", p=p, q=p)


CONVOLUTION = _Layout(_to_convolution, lambda w: einops.rearrange(w, "d c p q -> (p q c) d"))

VIT: dict[str, tuple[str, _Layout]] = {
    "cls": ("cls_token", TOKEN),
    "position": ("pos_embed", TOKENS),
    "register": ("register_tokens", TOKENS),
    "mask": ("mask_token", TOKENS),
    "patch/kernel": ("patch_embed.proj.weight", CONVOLUTION),
    "patch/bias": ("patch_embed.proj.bias", SAME),
    "norm/scale": ("norm.weight", SAME),
    "norm/bias": ("norm.bias", SAME),
}
LINEARS = {"attention/qkv": "attn.qkv", "attention/out": "attn.proj", "mlp/fc1": "mlp.fc1", "mlp/fc2": "mlp.fc2"}
BLOCK: dict[str, tuple[str, _Layout]] = {
    **{
        f"norm{i}/{ours}": (f"norm{i}.{theirs}", SAME)
        for i in (1, 2)
        for ours, theirs in (("scale", "weight"), ("bias",) * 2)
    },
    **{f"{ours}/kernel": (f"{theirs}.weight", TRANSPOSED) for ours, theirs in LINEARS.items()},
    **{f"{ours}/bias": (f"{theirs}.bias", SAME) for ours, theirs in LINEARS.items()},
    **{f"scale{i}/gamma": (f"ls{i}.gamma", SAME) for i in (1, 2)},
}
GATED = {"mlp.fc1.": "mlp.w12.", "mlp.fc2.": "mlp.w3."}
"""SwiGLU's layers, by the names that they have with GELU."""


def vit_to_torch(params: Params) -> dict[str, np.ndarray]:
    """Return a ViT's parameters as a state dict of DINO's names, float32; the stacked blocks taken apart."""
    return {name: np.ascontiguousarray(array) for name, array in _renamed(params).items()}


def _renamed(params: Params) -> dict[str, np.ndarray]:
    state: dict[str, np.ndarray] = {}
    gated = params["blocks"]["mlp"]["fc1"]["bias"].shape[-1] != params["blocks"]["mlp"]["fc2"]["kernel"].shape[-2]
    for path, leaf in _flat(params).items():
        if not path.startswith("blocks/"):
            name, layout = VIT[path]
            state[name] = layout.to(leaf)
            continue
        name, layout = BLOCK[path.removeprefix("blocks/")]
        for ours, theirs in GATED.items() if gated else ():
            name = name.replace(ours, theirs)
        state |= {f"blocks.{i}.{name}": layout.to(layer) for i, layer in enumerate(leaf)}
    return state


def vit_from_torch(state: StateDict) -> Params:
    """Return the parameters that a state dict of DINO's names holds, float32; the inverse of `vit_to_torch`.

    Raises:
        InputError: If a name is unknown, an array has the wrong number of axes, or a block lacks a parameter that
            another has.
    """
    vit, block = _inverse(VIT), _inverse(BLOCK)
    flat: dict[str, np.ndarray] = {}
    layers: dict[str, dict[int, np.ndarray]] = {}
    for name, value in state.items():
        array = np.asarray(value, np.float32)
        if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
            suffix = match[2]
            for ours, theirs in GATED.items():
                suffix = suffix.replace(theirs, ours)
            path, layout = _known(block, suffix, name)
            layers.setdefault(path, {})[int(match[1])] = _read(layout, array, name)
        else:
            path, layout = _known(vit, name, name)
            flat[path] = _read(layout, array, name)
    depth = 1 + max((i for stack in layers.values() for i in stack), default=-1)
    for path, stack in layers.items():
        if len(stack) != depth:
            raise InputError(f"the weights hold {BLOCK[path][0]} for {len(stack)} of {depth} blocks")
        if shapes := {array.shape for array in stack.values()} - {stack[0].shape}:
            raise InputError(f"{BLOCK[path][0]} has shapes that differ from block to block: {stack[0].shape}, {shapes}")
        flat[f"blocks/{path}"] = np.stack([stack[i] for i in range(depth)])
    return traverse_util.unflatten_dict(flat, sep="/")


def head_to_torch(params: Params) -> dict[str, np.ndarray]:
    """Return a DINOHead's parameters as a state dict of DINO's names; a gain fixed to one is written out."""
    layers = sum(name.startswith("fc") for name in params)
    state: dict[str, np.ndarray] = {}
    for i in range(layers):
        name = "mlp" if layers == 1 else f"mlp.{2 * i}"
        state[f"{name}.weight"] = np.transpose(params[f"fc{i + 1}"]["kernel"])
        state[f"{name}.bias"] = np.asarray(params[f"fc{i + 1}"]["bias"])
    last = params["last"]
    state["last_layer.weight_v"] = np.transpose(last["kernel"])
    state["last_layer.weight_g"] = COLUMN.to(np.asarray(last.get("gain", np.ones(last["kernel"].shape[1], np.float32))))
    return {name: np.ascontiguousarray(array) for name, array in state.items()}


def head_from_torch(state: StateDict, *, norm_last_layer: bool = True) -> Params:
    """Return the parameters of a DINOHead; the inverse of `head_to_torch`.

    Raises:
        InputError: If a name is unknown, or the prototypes have other lengths than the fixed one.
    """
    arrays = {name: np.asarray(value, np.float32) for name, value in state.items()}
    gain = COLUMN.back(arrays.pop("last_layer.weight_g"))
    last = {"kernel": arrays.pop("last_layer.weight_v").T}
    if not norm_last_layer:
        last["gain"] = gain
    elif not np.all(gain == 1.0):
        raise InputError("the head's prototypes have learned lengths: set norm_last_layer=False")
    params: Params = {"last": last}
    for name, array in arrays.items():
        match = re.fullmatch(r"mlp\.(?:(\d+)\.)?(weight|bias)", name)
        if not match:
            raise InputError(f"parameter {name!r} is none of a DINO head's")
        layer = params.setdefault(f"fc{int(match[1] or 0) // 2 + 1}", {})
        layer["kernel" if match[2] == "weight" else "bias"] = array.T
    return params


def _flat(params: Params) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf, np.float32) for path, leaf in traverse_util.flatten_dict(params, sep="/").items()}


def _inverse(table: Mapping[str, tuple[str, _Layout]]) -> dict[str, tuple[str, _Layout]]:
    return {theirs: (ours, layout) for ours, (theirs, layout) in table.items()}


def _read(layout: _Layout, array: np.ndarray, name: str) -> np.ndarray:
    try:
        return layout.back(array)
    except (IndexError, ValueError, einops.EinopsError) as error:
        raise InputError(f"parameter {name!r} has shape {list(array.shape)}, which no ViT's has") from error


def _known(table: Mapping[str, tuple[str, _Layout]], key: str, name: str) -> tuple[str, _Layout]:
    if key not in table:
        raise InputError(f"parameter {name!r} is none of a DINO or timm ViT's")
    return table[key]
