"""The formats: whose names and files there are."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ssljax.errors import InputError
from ssljax.export import huggingface, native, official, resnets, timm

TORCH = (".safetensors", ".pth")


class Format(NamedTuple):
    """One ecosystem's way to keep a network.

    Attributes:
        module: Has `to_state(network)`, `config_files(network)`, `recognises(state)` and `from_state(state, config)`;
            None for one that is written only.
        suffixes: Of single files; without any it is a folder.
        weights: What the weights are called in a folder.
    """

    module: ModuleType | None
    suffixes: tuple[str, ...] = TORCH
    weights: str = "model.safetensors"


FORMATS = {
    "dino": Format(official),
    "timm": Format(timm),
    "transformers": Format(huggingface, ()),
    "torchvision": Format(resnets),
    "onnx": Format(None, (".onnx",), "model.onnx"),
    "safetensors": Format(native, (".safetensors",)),
    "npz": Format(native, (".npz",), "model.npz"),
}
READABLE = tuple(name for name, format in FORMATS.items() if format.module is not None)


def format_of(state: Mapping[str, np.ndarray], config: Mapping[str, Any], place: object) -> str:
    """Return the format that a file's names are of; of a plain ViT, which timm names as DINO does, its config says it.

    Raises:
        InputError: They are of none.
    """
    first = "timm" if "architecture" in config else "torchvision"
    for name in sorted(READABLE, key=lambda name: (name != first, name == "timm")):
        module = FORMATS[name].module
        if module is not None and module.recognises(state):
            return name
    some = ", ".join(sorted(state)[:3]) or "none"
    raise InputError(
        f"{place} holds no encoder that is known by its names ({some}, ...); the formats are {', '.join(READABLE)}."
    )
