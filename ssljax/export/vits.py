"""A ViT's arguments, read off its parameters, and what shapes alone don't say, by convention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from ssljax.errors import InputError
from ssljax.export import names
from ssljax.models.pure import Params
from ssljax.models.vit import SIZES

HEADS_ASSUMED = "The file does not say how many heads the attention has"
OPTIONAL = ("register", "mask", "blocks/scale1/gamma", "blocks/scale2/gamma")


def read_vit(
    state: Mapping[str, np.ndarray], *, heads: int | None = None, offset: float = 0.0, antialias: bool = False
) -> tuple[dict[str, Any], Params, tuple[str, ...]]:
    """Return the arguments and parameters of a ViT, and what was assumed, from a state dict of DINO's names.

    Args:
        state: Of the ViT alone.
        heads: Of the attention; None is by convention, which a note says.
        offset: See `resample_positions`.
        antialias: See `resample_positions`.

    Raises:
        InputError: If a parameter is unknown, missing or of an impossible shape.
    """
    _check_patches(state)
    params = names.vit_from_torch(state)
    parts = ("cls", "position", "patch", "norm", "blocks")
    check_arrays({part: {} for part in parts} | params)
    notes: tuple[str, ...] = ()
    depth, width = params["blocks"]["norm1"]["scale"].shape
    if heads is None:
        heads = usual_heads(width)
        notes = (f"{HEADS_ASSUMED}: {heads} are assumed, as usual at {width}.",)
    patch = math.isqrt(len(params["patch"]["kernel"]) // 3)
    rows = len(params["position"]) - 1
    if rows < 1 or math.isqrt(rows) ** 2 != rows:
        raise InputError(f"pos_embed has {rows} positions besides that of CLS, which are no square grid of patches")
    ratio, mlp = _mlp(params["blocks"]["mlp"], width)
    fits = [name for name, size in SIZES.items() if size == {"width": width, "depth": depth, "heads": heads}]
    scales = params["blocks"].get("scale1")
    arguments = {
        "name": "vit",
        "size": fits[0] if fits else "s",
        "image_size": patch * math.isqrt(rows),
        "patch_size": patch,
        "width": width,
        "depth": depth,
        "heads": heads,
        "mlp_ratio": ratio,
        "mlp": mlp,
        "registers": len(params.get("register", ())),
        "layer_scale": None if scales is None else 1e-5,  # DINOv2's start; what it became is in the parameters
        "mask_token": "mask" in params,
        "positions": "learned",
        "norm_eps": 1e-6,
        "position_offset": offset,
        "position_antialias": antialias,
    }
    return arguments, params, notes


def usual_heads(width: int) -> int:
    """Return the number of heads of the named size of this width, otherwise heads of 64 channels."""
    known = {size["width"]: size["heads"] for size in SIZES.values()}
    return known.get(width, max(1, width // 64))


def ratio_of(width: int, hidden: int) -> float:
    """Return the number that `int(width * number)` makes `hidden` of."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _mlp(params: Params, width: int) -> tuple[float, str]:
    """Return mlp_ratio and kind of the MLP."""
    first, hidden = params["fc1"]["kernel"].shape[-1], params["fc2"]["kernel"].shape[-2]
    if first == hidden:
        return ratio_of(width, hidden), "gelu"
    if first != 2 * hidden or hidden % 8:
        raise InputError(f"an MLP goes from {first} channels to {hidden}: it is neither one with GELU nor SwiGLU")
    if (int(4 * width * 2 / 3) + 7) // 8 * 8 == hidden:
        return 4.0, "swiglu"  # what the rounding to a multiple of 8 leaves open, as DINOv2 has it
    return ratio_of(width, hidden * 3 // 2), "swiglu"


def _check_patches(state: Mapping[str, np.ndarray]) -> None:
    shape = np.shape(state.get("patch_embed.proj.weight", np.zeros((1, 3, 1, 1))))  # a missing one is told later
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
        raise InputError(
            f"patch_embed.proj.weight has shape {list(shape)}: give weights for square patches of three channels"
        )


def check_arrays(params: Params, prefix: str = "") -> None:
    """Compare the arrays of a ViT, or of some of its parts, with those that it has.

    Args:
        params: By part; of the parts that are there none may lack an array.
        prefix: Of the names of PyTorch that an error says.

    Raises:
        InputError: One is missing, or has a wrong number of axes.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    theirs = {ours: name for ours, (name, _) in names.VIT.items()}
    theirs |= {f"blocks/{ours}": f"blocks.*.{name}" for ours, (name, _) in names.BLOCK.items()}
    for path, name in theirs.items():
        if path.split("/")[0] not in params or (path in OPTIONAL and path not in flat):
            continue
        if path not in flat:
            raise InputError(f"the weights lack {prefix}{name}, which every ViT has")
        axes = 1 + (path.endswith("kernel") or path in ("position", "register")) + path.startswith("blocks/")
        if flat[path].ndim != axes:
            raise InputError(f"{prefix}{name} has an impossible number of axes: {list(flat[path].shape)}")
