"""Writing an encoder's weights to a file that PyTorch reads."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ssljax.errors import InputError
from ssljax.export import check as checking
from ssljax.export import names
from ssljax.models.pure import Params
from ssljax.models.vit import ViT
from ssljax.objectives.base import Encoder

FORMATS = ("dino",)
SUFFIXES = (".safetensors", ".pth")
TOLERANCE = 1e-4
"""Of `--check`: the largest difference of features between float32 here and there."""


def export_encoder(encoder: Encoder, output: Path, *, format: str = "dino", check: bool = False) -> None:
    """Write an encoder's weights; with `check`, compare PyTorch's features from the file with ours.

    Args:
        encoder: A ViT with its parameters.
        output: A .safetensors or .pth file, replaced if it exists.
        format: Whose names the parameters get.
        check: Whether the file is reloaded in PyTorch; the largest difference is printed.

    Raises:
        InputError: If the encoder is no ViT, format, suffix or folder can't be had, or PyTorch is needed and not
            installed.
        RuntimeError: If the features from the file differ by more than `TOLERANCE`.
    """
    if format not in FORMATS:
        raise InputError(f"format {format!r} is unknown: use one of {', '.join(FORMATS)}")
    if not isinstance(encoder.model.abstract, ViT):
        name = type(encoder.model.abstract).__name__
        raise InputError(f"the run's encoder is a {name}, which cannot be exported yet: format {format!r} is for a ViT")
    if check:
        need_torch("--check")
    save(state_dict(encoder), output, {"ssljax": json.dumps(arguments_of(encoder.model.abstract))})
    if check:
        difference = checking.largest_difference(output, encoder)
        print(f"largest difference between PyTorch's features from {output} and ours: {difference:.1e}")
        if not difference <= TOLERANCE:
            raise RuntimeError(f"{output} does not give our features: the largest difference is {difference:.1e}")


def state_dict(encoder: Encoder) -> dict[str, np.ndarray]:
    """Return an encoder's parameters under DINO's names, positions included where they are fixed ones."""
    vit = encoder.model.abstract
    grid = vit.grid(vit.image_size, vit.image_size)
    params: Params = {**encoder.params, "position": encoder.model(encoder.params, grid, method="positions")}
    return names.vit_to_torch(params)


def arguments_of(vit: Any) -> dict[str, Any]:
    """Return the arguments that make a ViT again for the weights of `state_dict`, whose positions are learned ones."""
    shape = ("image_size", "patch_size", "width", "depth", "heads", "mlp_ratio", "mlp", "registers", "layer_scale")
    rest = ("mask_token", "norm_eps", "position_offset", "position_antialias")
    return {name: getattr(vit, name) for name in (*shape, *rest)}


def save(state: dict[str, np.ndarray], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict as .safetensors, with metadata, or .pth, under another name until it is whole.

    Raises:
        InputError: If the suffix is neither, the file can't be written, or .pth is asked for without PyTorch.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} ends in neither {' nor '.join(SUFFIXES)}")
    if path.suffix == ".pth":
        need_torch(".pth")
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.suffix == ".pth":
            import torch

            torch.save({name: torch.tensor(array) for name, array in state.items()}, partial)
        else:
            save_file(state, partial, metadata={"format": "pt", **(metadata or {})})
        partial.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{path} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def need_torch(what: str) -> None:
    """Raise an InputError that says what to install, where PyTorch is missing."""
    if importlib.util.find_spec("torch") is None:
        raise InputError(
            f"{what} needs PyTorch, which is not installed: pip install 'ssljax[torch]', or use .safetensors"
        )
