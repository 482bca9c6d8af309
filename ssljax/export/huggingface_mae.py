"""A masked autoencoder's decoder under the names of `transformers.ViTMAEForPreTraining`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ssljax.errors import InputError
from ssljax.export.huggingface_names import DECODER_LAYERS, VIT, blocks_from_hub, blocks_to_hub
from ssljax.export.mae_names import are_fixed, fixed_positions
from ssljax.export.names import vit_from_torch, vit_to_torch
from ssljax.models.pure import Params

LAYERS = {
    "decoder.decoder_embed.weight": ("embed", "kernel"),
    "decoder.decoder_embed.bias": ("embed", "bias"),
    "decoder.decoder_norm.weight": ("norm", "scale"),
    "decoder.decoder_norm.bias": ("norm", "bias"),
    "decoder.decoder_pred.weight": ("pixels", "kernel"),
    "decoder.decoder_pred.bias": ("pixels", "bias"),
}
MASK, POSITIONS = "decoder.mask_token", "decoder.decoder_pos_embed"
MASK_RATIO, NORM_PIX_LOSS = 0.75, True
"""Of the objective where the network's source does not say, as `MAE` has them."""


def decoder_to_state(decoder: Params, patches: int) -> dict[str, np.ndarray]:
    """Return the parameters under their names, and the fixed positions of a square grid."""
    blocks = blocks_to_hub(vit_to_torch({"blocks": decoder["blocks"]}), VIT)
    state = {f"decoder.decoder_layers.{name}": array for name, array in blocks.items()}
    for name, (layer, kind) in LAYERS.items():
        state[name] = np.ascontiguousarray(np.transpose(decoder[layer][kind]), np.float32)
    state[MASK] = np.asarray(decoder["mask"], np.float32)[None, None]
    state[POSITIONS] = fixed_positions(len(decoder["mask"]), math.isqrt(patches))[None]
    return state


def decoder_from_state(state: Mapping[str, np.ndarray], patches: int) -> Params:
    """Return the parameters of the names that begin with "decoder.".

    Raises:
        InputError: A name is unknown or missing, or positions are not MAE's fixed ones, which are no parameters here.
    """
    for name in (*LAYERS, MASK, POSITIONS):
        if name not in state:
            raise InputError(f"the weights lack {name}")
        axes = 3 if name in (MASK, POSITIONS) else 2 if LAYERS[name][1] == "kernel" else 1
        if state[name].ndim != axes:
            raise InputError(f"{name} has the shape {list(state[name].shape)}, where {axes} axes are meant")
    rest = {name: array for name, array in state.items() if name not in (*LAYERS, MASK, POSITIONS)}
    decoder: Params = vit_from_torch(blocks_from_hub(rest, DECODER_LAYERS))
    for name, (layer, kind) in LAYERS.items():
        decoder.setdefault(layer, {})[kind] = np.asarray(state[name], np.float32).T
    decoder["mask"] = np.asarray(state[MASK], np.float32)[0, 0]
    found = np.asarray(state[POSITIONS], np.float32)[0]
    if len(found) != 1 + patches or not are_fixed(found):
        raise InputError(
            f"{POSITIONS} does not hold the fixed sines and cosines of a grid of {patches} patches, which alone the "
            "decoder can have: leave the decoder's arrays out of the file"
        )
    return decoder


def decoder_config(arguments: Mapping[str, Any], decoder: Params, source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the decoder's and the objective's entries of config.json."""
    objective = source.get("config", {}).get("objective", {})
    return {
        "decoder_hidden_size": arguments["hidden"],
        "decoder_num_hidden_layers": arguments["depth"],
        "decoder_num_attention_heads": arguments["heads"],
        "decoder_intermediate_size": decoder["blocks"]["mlp"]["fc2"]["kernel"].shape[-2],
        "mask_ratio": _number(objective.get("mask_ratio", MASK_RATIO)),
        "norm_pix_loss": bool(objective.get("norm_pix_loss", NORM_PIX_LOSS)),
    }


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"mask_ratio is {value!r}: give a number")
    return float(value)
