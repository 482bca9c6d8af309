"""Vision transformers as `transformers` has them: ViT, DINOv2 without and with registers, and MAE."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ssljax.errors import InputError
from ssljax.export import huggingface_mae as mae
from ssljax.export import huggingface_names as hub
from ssljax.export.names import vit_from_torch, vit_to_torch
from ssljax.export.network import Network
from ssljax.export.vits import HEADS_ASSUMED, ratio_of, usual_heads
from ssljax.models.mae import MAEDecoder
from ssljax.models.pure import Params
from ssljax.models.vit import SIZES, ViT

FIRST = hub.FIRST

CLASSES = {
    "vit": "ViTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "vit_mae": "ViTMAEForPreTraining",
}
"""By model_type."""

TYPES = tuple(CLASSES)

EPS = {"vit": 1e-12, "vit_mae": 1e-12, "dinov2": 1e-6, "dinov2_with_registers": 1e-6}
"""Of the layer norms where config.json does not say: their configs' defaults."""


def to_state(network: Network) -> dict[str, np.ndarray]:
    """Return the parameters under their names; see `huggingface.to_state`."""
    arguments, kind = _complete(network, "encoder"), model_type(network)
    encoder = vit_to_torch(network.params["encoder"])
    if kind == "dinov2_with_registers":
        encoder.setdefault("mask_token", np.zeros((1, arguments["width"]), np.float32))
    if kind.startswith("dinov2") and arguments["layer_scale"] is None:
        for i in range(arguments["depth"]):
            encoder |= {f"blocks.{i}.ls{n}.gamma": np.ones(arguments["width"], np.float32) for n in (1, 2)}
    blocks = hub.blocks_to_hub(encoder, hub.DINOV2 if kind.startswith("dinov2") else hub.VIT)
    state = {hub.TOKENS[name][0]: array for name, array in encoder.items() if name in hub.TOKENS}
    state |= {f"encoder.layer.{name}": array for name, array in blocks.items()}
    if kind != "vit_mae":
        return state
    patches = len(network.params["encoder"]["position"]) - 1
    decoder = mae.decoder_to_state(network.params["decoder"], patches)
    return {f"vit.{name}": array for name, array in state.items()} | decoder


def config(network: Network) -> dict[str, Any]:
    """Return config.json."""
    arguments, kind = _complete(network, "encoder"), model_type(network)
    hidden = _hidden(network.params["encoder"])
    entries: dict[str, Any] = {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "hidden_size": arguments["width"],
        "num_hidden_layers": arguments["depth"],
        "num_attention_heads": arguments["heads"],
        "hidden_act": "gelu",
        "layer_norm_eps": float(arguments["norm_eps"]),
        "image_size": arguments["image_size"],
        "patch_size": arguments["patch_size"],
        "num_channels": 3,
        "qkv_bias": True,
    }
    if kind.startswith("dinov2"):
        return entries | _dinov2_config(arguments, hidden)
    entries["intermediate_size"] = hidden
    if kind == "vit_mae":
        decoder = _complete(network, "decoder")
        entries |= mae.decoder_config(decoder, network.params["decoder"], network.source)
    return entries


def _dinov2_config(arguments: Mapping[str, Any], hidden: int) -> dict[str, Any]:
    ratio, gated = round(arguments["mlp_ratio"]), arguments["mlp"] == "swiglu"
    if _hidden_of(arguments["width"], ratio, gated) != hidden:
        raise InputError(
            f"the encoder's mlp_ratio is {arguments['mlp_ratio']}, but transformers' DINOv2 takes whole numbers alone"
        )
    scale = 1.0 if arguments["layer_scale"] is None else float(arguments["layer_scale"])
    entries = {"mlp_ratio": ratio, "use_swiglu_ffn": gated, "layerscale_value": scale}
    entries |= {"use_layerscale": arguments["layer_scale"] is not None, "use_mask_token": bool(arguments["mask_token"])}
    return entries | ({"num_register_tokens": arguments["registers"]} if arguments["registers"] else {})


def model_type(network: Network) -> str:
    """Return the model_type of the class that is such a network.

    Raises:
        InputError: There is none.
    """
    encoder = _complete(network, "encoder")
    extras = {
        "registers": encoder["registers"] > 0,
        "LayerScale": encoder["layer_scale"] is not None,
        "SwiGLU": encoder["mlp"] == "swiglu",
        "mask token": bool(encoder["mask_token"]),
    }
    present = [name for name, there in extras.items() if there]
    if "decoder" not in network.params:
        return "dinov2_with_registers" if encoder["registers"] else "dinov2" if present else "vit"
    if present:
        raise InputError(f"transformers' ViTMAE has no {present[0]}: export the encoder without the decoder")
    ours, theirs = encoder["norm_eps"], _complete(network, "decoder")["norm_eps"]
    if ours != theirs:
        raise InputError(
            f"transformers' ViTMAE has one norm_eps, but the encoder's is {ours} and the decoder's {theirs}: "
            "export the encoder without the decoder"
        )
    return "vit_mae"


def from_state(state: Mapping[str, np.ndarray], prefix: str, config: Mapping[str, Any]) -> Network:
    """Return the network of names that begin with `prefix`; see `huggingface.from_state`."""
    notes: list[str] = []
    tokens = hub.tokens_from_hub(state, prefix)
    known = {prefix + name for name, _ in hub.TOKENS.values()}
    with_decoder = "decoder.decoder_embed.weight" in state
    outer = {name for name in state if with_decoder and name.startswith("decoder.")}
    rest = {name: array for name, array in state.items() if name not in known | outer}
    blocks = hub.blocks_from_hub(rest, re.escape(prefix) + hub.LAYERS)
    encoder = vit_from_torch(_without_stand_ins(tokens | _with_biases(blocks, notes), config, notes))
    arguments = {"encoder": _encoder_arguments(encoder, config, notes)}
    if not with_decoder:
        return Network(arguments, {"encoder": encoder}, notes=tuple(notes))
    decoder = mae.decoder_from_state({name: state[name] for name in outer}, len(encoder["position"]) - 1)
    arguments["decoder"] = _decoder_arguments(decoder, arguments["encoder"], config, notes)
    objective = {"name": "mae"} | {key: config[key] for key in ("mask_ratio", "norm_pix_loss") if key in config}
    params = {"encoder": encoder, "decoder": decoder}
    return Network(arguments, params, notes=tuple(notes), source={"config": {"objective": objective}})


def _with_biases(blocks: dict[str, np.ndarray], notes: list[str]) -> dict[str, np.ndarray]:
    """Return the blocks with zeros for the biases of queries, keys and values, where a model has none."""
    kernels = [name for name in blocks if name.endswith("attn.qkv.weight")]
    names = [name.replace("weight", "bias") for name in kernels]
    if any(name in blocks for name in names):
        return blocks
    notes.append("Queries, keys and values have no biases in the file: they are zeros here.")
    zeros = [np.zeros(len(blocks[kernel]), np.float32) for kernel in kernels]
    return blocks | dict(zip(names, zeros, strict=True))


def _without_stand_ins(
    state: dict[str, np.ndarray], config: Mapping[str, Any], notes: list[str]
) -> dict[str, np.ndarray]:
    """Return the state without what does nothing and was written because a class cannot do without it.

    `use_layerscale`, and with registers `use_mask_token`, are entries of ours, which transformers keeps and ignores.
    """
    scales = [name for name in state if name.endswith(".gamma")]
    mask = ["mask_token"] if "register_tokens" in state and "mask_token" in state else []
    for names, value, key, what in (
        (scales, 1, "use_layerscale", "LayerScales of one, which scale nothing, were"),
        (mask, 0, "use_mask_token", "A mask token of zeros was"),
    ):
        if names and config.get(key) is not True and all(np.all(state[name] == value) for name in names):
            state = {name: array for name, array in state.items() if name not in names}
            if key not in config:
                notes.append(f"{what} left out.")
    return state


def _encoder_arguments(encoder: Params, config: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    count, width = encoder["position"].shape
    if count < 2:
        raise InputError("there are positions of no patch")
    side, patch = math.isqrt(count - 1), math.isqrt(encoder["patch"]["kernel"].shape[0] // 3)
    if side * side != count - 1:
        raise InputError(f"the positions are those of {count - 1} patches, which make no square")
    depth = len(encoder["blocks"]["norm1"]["scale"])
    heads = _heads(config, "num_attention_heads", usual_heads(width), width, notes)
    shape = {"width": width, "depth": depth, "heads": heads}
    registers, scaled = len(encoder.get("register", ())), "scale1" in encoder["blocks"]
    plain = "vit_mae" if "decoder_hidden_size" in config else "vit"
    kind = "dinov2_with_registers" if registers else "dinov2" if scaled else plain
    return {
        "name": "vit",
        "size": next((name for name, known in SIZES.items() if known == shape), "s"),
        **shape,
        "image_size": side * patch,
        "patch_size": patch,
        **_mlp_arguments(encoder, width, config),
        "registers": registers,
        "layer_scale": float(_number(config, "layerscale_value", 1.0)) if scaled else None,
        "mask_token": "mask" in encoder,
        "norm_eps": _eps(config, EPS[kind], notes),
        "position_offset": 0.0,
        "position_antialias": registers > 0,
        "positions": "learned",
    }


def _decoder_arguments(
    decoder: Params, encoder: Mapping[str, Any], config: Mapping[str, Any], notes: list[str]
) -> dict[str, Any]:
    hidden = len(decoder["mask"])
    return {
        "name": "mae_decoder",
        "width": encoder["width"],
        "patch_size": encoder["patch_size"],
        "hidden": hidden,
        "depth": len(decoder["blocks"]["norm1"]["scale"]),
        "heads": _heads(config, "decoder_num_attention_heads", 16, hidden, notes),
        "mlp_ratio": ratio_of(hidden, _hidden(decoder)),
        "norm_eps": encoder["norm_eps"],
    }


def _complete(network: Network, role: str) -> dict[str, Any]:
    """Return a part's arguments with the defaults of those that are not given."""
    given = network.arguments[role]
    parameters = inspect.signature((ViT if role == "encoder" else MAEDecoder).__init__).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    return defaults | SIZES.get(given.get("size", ""), {}) | given


def _mlp_arguments(encoder: Params, width: int, config: Mapping[str, Any]) -> dict[str, Any]:
    hidden, mlp = _hidden(encoder), encoder["blocks"]["mlp"]
    gated = mlp["fc1"]["kernel"].shape[-1] != hidden
    said = _number(config, "mlp_ratio", 4)
    ratio = (
        float(said)
        if _hidden_of(width, said, gated) == hidden
        else ratio_of(width, hidden * 3 // 2 if gated else hidden)
    )
    return {"mlp_ratio": ratio, "mlp": "swiglu" if gated else "gelu"}


def _hidden(part: Params) -> int:
    return int(part["blocks"]["mlp"]["fc2"]["kernel"].shape[-2])


def _hidden_of(width: int, ratio: float, gated: bool) -> int:
    """Return an MLP's hidden width, as `models.blocks.Mlp` rounds it."""
    hidden = int(width * ratio)
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden


def _heads(config: Mapping[str, Any], key: str, usual: int, width: int, notes: list[str]) -> int:
    if key not in config:
        said = HEADS_ASSUMED if key == "num_attention_heads" else f"The file does not say {key}"
        notes.append(f"{said}: {usual} are assumed, as usual at width {width}.")
    heads = _number(config, key, usual)
    if heads != int(heads):
        raise InputError(f"config.json has {key} {heads!r}: give a whole number")
    return int(heads)


def _eps(config: Mapping[str, Any], usual: float, notes: list[str]) -> float:
    if "layer_norm_eps" not in config:
        notes.append(f"The file does not say layer_norm_eps: {usual} is assumed.")
    return float(_number(config, "layer_norm_eps", usual))


def _number(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise InputError(f"config.json has {key} {value!r}: give a number")
    return value
