"""MAE's decoder under the names of its released code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ssljax.errors import InputError
from ssljax.export import names
from ssljax.export.vits import check_arrays, ratio_of
from ssljax.models.pure import Params
from ssljax.ops.positions import sincos_positions

LINEARS = {"embed": "decoder_embed", "pixels": "decoder_pred"}
TOLERANCE = 5e-3
"""Of fixed positions, which others compute in float64, or keep in bfloat16."""


def decoder_to_torch(params: Params, side: int) -> dict[str, np.ndarray]:
    """Return an MAEDecoder as in MAE's state dict, its fixed positions for a grid of `side` by `side` among it.

    The pixels of a patch are by (row, column, channel) there too.
    """
    stack = names.vit_to_torch({"blocks": params["blocks"], "norm": params["norm"]})
    state = {f"decoder_{name}": array for name, array in stack.items()}
    for ours, theirs in LINEARS.items():
        state[f"{theirs}.weight"] = np.ascontiguousarray(np.asarray(params[ours]["kernel"], np.float32).T)
        state[f"{theirs}.bias"] = np.asarray(params[ours]["bias"], np.float32)
    state["mask_token"] = np.asarray(params["mask"], np.float32)[None, None]
    state["decoder_pos_embed"] = fixed_positions(len(params["mask"]), side)[None]
    return state


def read_decoder(state: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], Params, tuple[str, ...]]:
    """Return the arguments and parameters of an MAEDecoder, and what was assumed.

    Args:
        state: `mask_token` and what begins with `decoder_`.

    Raises:
        InputError: If a parameter is unknown, missing or of an impossible shape, or the positions are not MAE's.
    """
    left = dict(state)
    params: Params = {}
    for ours, theirs in LINEARS.items():
        kernel, bias = _take(left, f"{theirs}.weight", 2), _take(left, f"{theirs}.bias", 1)
        params[ours] = {"kernel": np.ascontiguousarray(kernel.T), "bias": bias}
    params["mask"] = _take(left, "mask_token", 3).reshape(-1)
    _check_positions(_take(left, "decoder_pos_embed", 3))
    if unknown := sorted(name for name in left if not name.startswith(("decoder_blocks.", "decoder_norm."))):
        raise InputError(f"parameter {unknown[0]!r} is none of an MAE decoder's")
    params |= names.vit_from_torch({name.removeprefix("decoder_"): array for name, array in left.items()})
    check_arrays({part: params.get(part, {}) for part in ("blocks", "norm")}, "decoder_")
    width, hidden = params["embed"]["kernel"].shape
    heads = 16 if hidden % 16 == 0 else 1
    arguments = {
        "name": "mae_decoder",
        "width": width,
        "patch_size": math.isqrt(len(params["pixels"]["bias"]) // 3),
        "hidden": hidden,
        "depth": len(params["blocks"]["norm1"]["scale"]),
        "heads": heads,
        "mlp_ratio": ratio_of(hidden, params["blocks"]["mlp"]["fc1"]["kernel"].shape[-1]),
        "norm_eps": 1e-6,
    }
    note = f"The file does not say how many heads the decoder's attention has: {heads} are assumed, as in MAE."
    return arguments, params, (note,)


def fixed_positions(width: int, side: int) -> np.ndarray:
    """Return the sines and cosines [1 + side^2, width] of MAE, zero for CLS, float32."""
    return np.concatenate([np.zeros((1, width), np.float32), np.asarray(sincos_positions(width, (side, side)))])


def are_fixed(positions: np.ndarray) -> bool:
    """Return whether positions [1 + n, width] are those of `fixed_positions`."""
    side = math.isqrt(max(len(positions) - 1, 0))
    if side < 1 or positions.shape[1] % 4 or side**2 != len(positions) - 1:
        return False
    return bool(np.abs(positions - fixed_positions(positions.shape[1], side)).max() < TOLERANCE)


def _check_positions(positions: np.ndarray) -> None:
    if positions.shape[0] != 1 or not are_fixed(positions[0]):
        raise InputError("decoder_pos_embed are not MAE's fixed sines and cosines, and the decoder here has no others")


def _take(left: dict[str, np.ndarray], name: str, axes: int) -> np.ndarray:
    if name not in left:
        raise InputError(f"the weights lack {name}, which every MAE decoder has")
    array = np.asarray(left.pop(name), np.float32)
    if array.ndim != axes:
        raise InputError(f"parameter {name!r} has shape {list(array.shape)}, which no MAE decoder's has")
    return array
