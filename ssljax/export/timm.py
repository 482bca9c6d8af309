"""The names, and the config.json, of timm: ViTs and ResNets that `timm.create_model("local-dir:PATH")` makes.

The config names timm's nearest architecture and says in `model_args` all in which it can differ, so that it is strictly
loaded whatever the size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ssljax.errors import InputError
from ssljax.export import names, resnets
from ssljax.export.network import Network
from ssljax.export.vits import ratio_of, read_vit
from ssljax.models.pure import Params
from ssljax.models.resnet import DEPTHS
from ssljax.models.vit import SIZES
from ssljax.ops.augment import IMAGENET_MEAN, IMAGENET_STD

State = Mapping[str, np.ndarray]

TIMM_SIZES = {"ti": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant"}
SAID = {"img_size": "image_size", "patch_size": "patch_size", "embed_dim": "width", "depth": "depth"}
"""Arguments that the arrays say as well, theirs and ours."""
FOLDED = "The position of CLS: it is part of cls_token there, and zero here."


def to_state(network: Network) -> dict[str, np.ndarray]:
    """Return an encoder under timm's names.

    The mask token is left out: timm has none. With registers the position of CLS is added to the CLS token, as timm
    does with DINOv2's weights: its positions are then of patches alone.

    Raises:
        InputError: If the network has other parts, or its encoder is none of timm's.
    """
    if other := sorted(network.params.keys() - {"encoder"}):
        raise InputError(f"timm's names are for an encoder alone: leave out the {', '.join(other)}")
    arguments, params = network.arguments["encoder"], network.params["encoder"]
    if arguments["name"] == "resnet":
        _check_resnet(arguments, params)
        return resnets.resnet_to_torch(arguments, params)
    return _vit_to_timm(arguments, params)


def config_files(network: Network) -> dict[str, dict[str, Any]]:
    """Return {"config.json": ...}, as timm's own export has it; the file of weights is to be model.safetensors."""
    arguments, params = network.arguments["encoder"], network.params["encoder"]
    make = _resnet_config if arguments["name"] == "resnet" else _vit_config
    return {"config.json": make(arguments, params)}


def recognises(state: State) -> bool:
    """Return whether the names are those of a ViT or ResNet of timm's; a plain ViT's are DINO's as well."""
    if any(name.startswith(("register_tokens", "mask_token")) or ".w12." in name for name in state):
        return False
    return "reg_token" in state or {"cls_token", "patch_embed.proj.weight"} <= state.keys() or resnets.recognises(state)


def from_state(state: State, config: Mapping[str, Any]) -> Network:
    """Return the encoder of timm's; the classifier is left out.

    Args:
        state: A state dict.
        config: timm's config.json, for the number of heads, or {}.

    Raises:
        InputError: If a parameter is unknown, missing or of an impossible shape.
    """
    if "conv1.weight" in state:
        name, changed = str(config.get("architecture", "resnet18")), config.get("model_args") or {}
        if not re.fullmatch(r"(\w+_)?resnet\d+(\..+)?", name) or set(changed) - {"layers"}:
            raise InputError(f"config.json names a {name!r} of {changed}, which computes otherwise than a plain ResNet")
        return resnets.from_state(state, config)
    left, notes = dict(state), []
    for part in ("head", "fc"):
        if [left.pop(f"{part}.{leaf}", None) is None for leaf in ("weight", "bias")] != [True, True]:
            notes.append(resnets.CLASSIFIER.format(part))
    said = _said(config)
    notes += _unfold(left, said.get("no_embed_class"))
    arguments, params, more = read_vit(left, heads=said.get("num_heads"), antialias=True)
    for theirs, ours in SAID.items():
        if said.get(theirs, arguments[ours]) not in (arguments[ours], [arguments[ours]] * 2):
            raise InputError(
                f"config.json has {theirs} {said[theirs]!r}, but the arrays are those of a model with {arguments[ours]}"
            )
    assumed = frozenset() if "num_heads" in said else frozenset({"encoder"})
    return Network({"encoder": arguments}, {"encoder": params}, notes=(*notes, *more), assumed=assumed)


def _said(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's arguments in a config.json; InputError where what is used of them is of another type."""
    said = config.get("model_args", {})
    if not isinstance(said, dict):
        raise InputError(f"config.json has model_args {said!r}: give an object")
    for key, kind in (("num_heads", int), ("no_embed_class", bool)):
        if key in said and type(said[key]) is not kind:
            raise InputError(f"config.json has {key} {said[key]!r}: give a {kind.__name__}")
    return said


def _unfold(state: dict[str, np.ndarray], patches_alone: bool | None) -> list[str]:
    """Give registers and positions DINOv2's names and places; return what that loses.

    Args:
        state: Changed in place.
        patches_alone: Whether the positions are of patches alone; None says that they are where they make a square.
    """
    registers = np.asarray(state.pop("reg_token", np.zeros((1, 0, 0), np.float32)))
    positions = np.asarray(state.get("pos_embed", np.zeros(0)))
    if registers.ndim != 3 or positions.ndim != 3:
        raise InputError("the weights lack pos_embed, or it or reg_token has not three axes")
    count, rows = registers.shape[1], positions.shape[1]
    notes = []
    if patches_alone or (patches_alone is None and math.isqrt(rows) ** 2 == rows):
        positions = np.concatenate([np.zeros_like(positions[:, :1]), positions], axis=1)
        notes.append(FOLDED)
    elif count:
        if rows <= count or positions.shape[2] != registers.shape[2]:
            raise InputError(f"pos_embed has shape {list(positions.shape)}, and reg_token {list(registers.shape)}")
        registers = registers + positions[:, 1 : 1 + count]
        positions = np.concatenate([positions[:, :1], positions[:, 1 + count :]], axis=1)
        notes.append("The positions of the registers: they are added to the registers here.")
    state["pos_embed"] = positions
    if count:
        state["register_tokens"] = registers
    return notes


def _vit_to_timm(arguments: Mapping[str, Any], params: Params) -> dict[str, np.ndarray]:
    if arguments["name"] != "vit":
        raise InputError(f"timm's names are for a ViT or a ResNet, and the encoder is a {arguments['name']!r}")
    if (eps := arguments.get("norm_eps", 1e-6)) != 1e-6:
        raise InputError(
            f"the ViT's layer norms add {eps} to the variance and timm's 1e-06, which its config can't change: "
            "take another format"
        )
    state = {
        name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2."): array
        for name, array in names.vit_to_torch(params).items()
        if name != "mask_token"
    }
    if "register_tokens" in state:
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = np.ascontiguousarray(state["pos_embed"][:, 1:])
    return state


def _vit_config(arguments: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """Return the config; what decides are the arrays, and the arguments where they don't say it."""
    mlp, width = params["blocks"]["mlp"], params["cls"].shape[0]
    registers = len(params.get("register", ()))
    patch = math.isqrt(len(params["patch"]["kernel"]) // 3)
    side = patch * math.isqrt(len(params["position"]) - 1)
    gated = mlp["fc1"]["kernel"].shape[-1] != mlp["fc2"]["kernel"].shape[-2]
    scaled = "scale1" in params["blocks"]
    size = {sizes["width"]: TIMM_SIZES[name] for name, sizes in SIZES.items()}.get(width, "small")
    model_args = {
        "img_size": side,
        "patch_size": patch,
        "embed_dim": width,
        "depth": params["blocks"]["norm1"]["scale"].shape[0],
        "num_heads": arguments["heads"],
        "mlp_ratio": ratio_of(width, mlp["fc1"]["kernel"].shape[-1]),
        "init_values": (arguments.get("layer_scale") or 1e-5) if scaled else None,
        "reg_tokens": registers,
        "no_embed_class": registers > 0,
    }
    architecture = _architecture(size, patch, registers=registers > 0, scaled=scaled, gated=gated)
    rest = {"pool_size": None, "fixed_input_size": True, "first_conv": "patch_embed.proj"}
    return _config(architecture, width, "token", model_args, side, rest | {"classifier": "head"})


def _architecture(size: str, patch: int, *, registers: bool, scaled: bool, gated: bool) -> str:
    """Return the name of timm's nearest ViT; SwiGLU can be had from DINOv2's giant alone."""
    reg = "_reg4" if registers else ""
    if gated:
        return f"vit_giant_patch14{reg}_dinov2"
    if (scaled or registers) and size in ("small", "base", "large"):
        return f"vit_{size}_patch14{reg}_dinov2"
    if size in ("huge", "giant"):
        return f"vit_{size}_patch14_224"
    return f"vit_{size}_patch{8 if patch == 8 and size in ('small', 'base') else 16}_224"


def _check_resnet(arguments: Mapping[str, Any], params: Params) -> None:
    width, stages = params["conv"]["kernel"].shape[-1], {name.split("_")[0] for name in params if "_" in name}
    if width != 64 or stages != {f"layer{i}" for i in range(1, 5)}:
        raise InputError(
            f"the ResNet starts with {width} channels and has {len(stages)} stages, but timm's start with 64 and have "
            "4: take another format"
        )


def _resnet_config(arguments: Mapping[str, Any], params: Params) -> dict[str, Any]:
    stages = [name.split("_")[0] for name in params if name.startswith("layer")]
    blocks = tuple(stages.count(f"layer{i}") for i in range(1, 5))
    bottleneck = "conv3" in params["layer1_0"]
    depth = {value: depth for depth, value in DEPTHS.items()}.get((blocks, bottleneck), 50 if bottleneck else 18)
    model_args = {} if DEPTHS[depth][0] == blocks else {"layers": list(blocks)}
    rest = {"pool_size": [7, 7], "first_conv": "conv1", "classifier": "fc"}
    return _config(f"resnet{depth}", 2048 if bottleneck else 512, "avg", model_args, 224, rest)


def _config(
    architecture: str, width: int, pool: str, model_args: Mapping[str, Any], side: int, rest: dict[str, Any]
) -> dict[str, Any]:
    pretrained = {
        "tag": "ssljax",
        "custom_load": False,
        "input_size": [3, side, side],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "num_classes": 0,
    }
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": width,
        "global_pool": pool,
        **({"model_args": dict(model_args)} if model_args else {}),
        "pretrained_cfg": pretrained | rest,
    }
