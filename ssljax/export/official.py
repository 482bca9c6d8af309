"""The names of the released weights: of DINO and DoRA, DINOv2, MAE and MoCo v3.

What a file is shows in its names: `backbone` and `head` are DINO's, `dino_head` is DINOv2's, `decoder_embed` MAE's,
`base_encoder` MoCo v3's. A ResNet has torchvision's names in all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ssljax.errors import InputError
from ssljax.export import mae_names, moco_names, names, resnets
from ssljax.export.network import Network
from ssljax.export.vits import HEADS_ASSUMED, read_vit
from ssljax.models.pure import Params

State = Mapping[str, np.ndarray]

HEADS = {"head": "head", "dino_head": "head", "ibot_head": "patch_head", "predictor": "predictor"}
"""Parts beside the encoder by their names, and their roles."""
SURPLUS = {
    "optimizer": "The optimiser's state",
    "fp16_scaler": "The state of the loss scaling",
    "scaler": "The state of the loss scaling",
    "dino_loss": "The centre of DINO's loss",
    "ibot_patch_loss": "The centre of iBOT's loss",
}
TWINS = {"teacher": "student", "base_encoder": "momentum_encoder"}
"""The copies that are evaluated, and the other ones."""
_COPY = re.compile(r"(student|teacher|base_encoder|momentum_encoder)\.(?:module\.)?(.+)")
_WRAPPED = re.compile(r"(?:(?:state_dict|model|module)\.)+(.+)")
_CHUNKED = re.compile(r"blocks\.\d+\.(\d+\..+)")


class _Sorted(NamedTuple):
    """Arrays by copy ("" where there is one), then by role, under the names within; and what was left out."""

    copies: dict[str, dict[str, dict[str, np.ndarray]]]
    notes: tuple[str, ...]


def to_state(network: Network) -> dict[str, np.ndarray]:
    """Return a network under the names of the code that was released with its objective.

    An encoder alone has DINO's names, and DINOv2's for what DINO has not. With its head it is what DINO and DoRA keep
    of student or teacher (`backbone`, `head`), with a patch head DINOv2's (`backbone`, `dino_head`, `ibot_head`); with
    a decoder it is MAE's model, with a projector, and perhaps a predictor, MoCo v3's (`base_encoder`, `predictor`).

    Raises:
        InputError: If no released code has such a network.
    """
    roles = network.params.keys() - {"encoder"}
    arguments, params = network.arguments, network.params
    encoder = _encoder_to_torch(arguments["encoder"], params["encoder"])
    if not roles:
        return encoder
    if roles == {"decoder"}:
        return _mae_to_torch(encoder, network)
    if roles == {"head"}:
        return _prefixed("backbone", encoder) | _prefixed("head", names.head_to_torch(params["head"]))
    if roles == {"head", "patch_head"}:
        state = _prefixed("backbone", encoder) | _prefixed("dino_head", names.head_to_torch(params["head"]))
        return state | _prefixed("ibot_head", names.head_to_torch(params["patch_head"]))
    if roles in ({"projector"}, {"projector", "predictor"}):
        part = "head" if arguments["encoder"]["name"] == "vit" else "fc"
        projector = moco_names.mlp_to_torch(arguments["projector"], params["projector"])
        state = _prefixed("base_encoder", encoder | _prefixed(part, projector))
        if "predictor" in roles:
            state |= _prefixed("predictor", moco_names.mlp_to_torch(arguments["predictor"], params["predictor"]))
        return state
    raise InputError(f"no released code names an encoder with {', '.join(sorted(roles))}: export the encoder alone")


def config_files(network: Network) -> dict[str, dict[str, Any]]:
    """Return {}: the released files have none."""
    return {}


def recognises(state: State) -> bool:
    """Return whether the names are those of a released file."""
    found = {_unwrapped(name) for name in state}
    if any(_COPY.fullmatch(name) or name.startswith("backbone.") for name in found):
        return True
    vit = "patch_embed.proj.weight" in found and "reg_token" not in found
    return vit or {"conv1.weight", "layer1.0.conv1.weight"} <= found


def from_state(state: State, config: Mapping[str, Any]) -> Network:
    """Return the network of a released file, or of `to_state`; lists within the file are numbers in the names.

    Of student and teacher the teacher is the network and the student its twin; of MoCo v3's encoders the trained one,
    as the released code evaluates, and the moving average is the twin.

    Raises:
        InputError: If a parameter is unknown, missing or of an impossible shape.
    """
    copies, notes = _by_part(state)
    moco = "base_encoder" in copies or "momentum_encoder" in copies
    outside = copies.pop("", {}) if len(copies) > 1 else {}
    main = next((name for name in (*TWINS, *TWINS.values(), "") if name in copies), None)
    if main is None:
        raise InputError("the file holds no weights of an encoder")
    if other := sorted(copies.keys() - {main, TWINS.get(main)}):
        raise InputError(f"the file holds both {main!r} and {other[0]!r}, which no released one does")
    if outside and not (moco and outside.keys() == {"predictor"}):
        part = min(name for role in outside.values() for name in role)
        raise InputError(f"parameter {part!r} belongs to none of the file's networks")
    read = {name: _network(parts, moco=moco) for name, parts in copies.items()}
    network = read[main]
    twin = read.get(TWINS[main]) if main in TWINS else None
    if twin and any(network.arguments.get(role) != arguments for role, arguments in twin.arguments.items()):
        raise InputError(f"{main!r} and {TWINS[main]!r} of the file are networks of different shapes")
    if outside:
        arguments, params, more = moco_names.read_mlp(outside["predictor"], "predictor")
        network.arguments["predictor"], network.params["predictor"] = arguments, params
        notes += more
    return network._replace(
        twin=twin.params if twin else {},
        averaged=main in ("teacher", "momentum_encoder"),
        notes=tuple(dict.fromkeys((*notes, *network.notes))),
    )


def _network(parts: Mapping[str, State], *, moco: bool) -> Network:
    """Return one copy's network from its parts."""
    arguments: dict[str, dict[str, Any]] = {}
    params: dict[str, Params] = {}
    encoder = dict(parts.get("encoder", {}))
    decoder = {name: encoder.pop(name) for name in list(encoder) if name.startswith("decoder_")}
    if decoder and "mask_token" in encoder:
        decoder["mask_token"] = encoder.pop("mask_token")
    arguments["encoder"], params["encoder"], notes = _read_encoder(encoder, moco=moco, fixed=bool(decoder))
    if decoder:
        arguments["decoder"], params["decoder"], more = mae_names.read_decoder(decoder)
        notes += more
    for role in sorted(parts.keys() - {"encoder"}):
        reader = _read_head if role in ("head", "patch_head") else moco_names.read_mlp
        arguments[role], params[role], more = reader(parts[role], role)
        notes += more
    return Network(arguments, params, notes=notes, assumed=frozenset({"encoder", "decoder"}))


def _by_part(state: State) -> _Sorted:
    """Sort a file's arrays by copy and role; the classifier and what is no network are left out."""
    copies: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    notes: dict[str, None] = {}
    for full, array in state.items():
        name = _unwrapped(full)
        if (group := full.split(".")[0]) in SURPLUS or (group := name.split(".")[0]) in SURPLUS:
            notes[f"{SURPLUS[group]} ({group}): weights alone are read."] = None
            continue
        match = _COPY.fullmatch(name)
        copy, name = (match[1], match[2]) if match else ("", name)
        role, name = _role(name, moco=copy in ("base_encoder", "momentum_encoder"))
        if role is None:
            notes[resnets.CLASSIFIER.format(name.split(".")[0])] = None
            continue
        parts = copies.setdefault(copy, {}).setdefault(role, {})
        if name in parts:
            raise InputError(f"the file holds {name!r} twice, once as {full!r}")
        parts[name] = array
    return _Sorted(copies, tuple(notes))


def _role(name: str, *, moco: bool) -> tuple[str | None, str]:
    """Return the role that a name of one copy belongs to, None for a classifier, and its name there."""
    if re.fullmatch(r"(head|fc)\.(weight|bias)", name):
        return None, name
    if moco and (match := re.fullmatch(r"(?:head|fc)\.(\d+\..+)", name)):
        return "projector", match[1]
    part, _, rest = name.partition(".")
    if part in HEADS and rest:
        return HEADS[part], rest
    name = rest if part == "backbone" else name
    chunked = _CHUNKED.fullmatch(name)
    return "encoder", f"blocks.{chunked[1]}" if chunked else name


def _read_encoder(state: State, *, moco: bool, fixed: bool) -> tuple[dict[str, Any], Params, tuple[str, ...]]:
    """Return a ViT or a ResNet; `fixed` says that the file is MAE's."""
    if "conv1.weight" in state:
        return resnets.read_resnet(state)
    positions = np.asarray(state.get("pos_embed", np.zeros((1, 1, 1))))
    note: tuple[str, ...] = ()
    if not (moco or fixed) and positions.ndim == 3 and mae_names.are_fixed(positions[0]):
        fixed = True
        note = ("The positions are fixed sines and cosines: they are interpolated to other sizes as MAE does it.",)
    registers = "register_tokens" in state
    heads = 12 if moco and positions.shape[-1:] == (384,) else None  # not 6, unlike every other ViT-S
    offset = 0.0 if moco or fixed or registers else 0.1
    arguments, params, notes = read_vit(state, heads=heads, offset=offset, antialias=registers)
    if heads:
        notes += (f"{HEADS_ASSUMED}: {heads} are assumed, as in MoCo v3.",)
    return arguments, params, notes + note


def _read_head(state: State, part: str) -> tuple[dict[str, Any], Params, tuple[str, ...]]:
    """Return the arguments and parameters of a DINOHead."""
    for name in ("last_layer.weight_g", "last_layer.weight_v"):
        if name not in state or np.ndim(state[name]) != 2:
            raise InputError(f"the {part} lacks {name}, a matrix, which every head of DINO's has")
    free = not np.all(np.asarray(state["last_layer.weight_g"]) == 1.0)
    params = names.head_from_torch(state, norm_last_layer=not free)
    layers = len(params) - 1
    wanted = [f"fc{i}" for i in range(1, layers + 1)]
    if not layers or any(
        params.get(fc, {}).keys() != {"kernel", "bias"} or params[fc]["kernel"].ndim != 2 for fc in wanted
    ):
        raise InputError(f"the {part} is none of DINO's: a linear layer of it is missing or incomplete")
    bottleneck, prototypes = params["last"]["kernel"].shape
    arguments = {
        "name": "dino_head",
        "width": params["fc1"]["kernel"].shape[0],
        "bottleneck": bottleneck,
        "prototypes": prototypes,
        "layers": layers,
        "norm_last_layer": not free,
    }
    return arguments | ({"hidden": params["fc1"]["kernel"].shape[1]} if layers > 1 else {}), params, ()


def _encoder_to_torch(arguments: Mapping[str, Any], params: Params) -> dict[str, np.ndarray]:
    if arguments["name"] == "vit":
        return names.vit_to_torch(params)
    return resnets.resnet_to_torch(arguments, params)


def _mae_to_torch(encoder: dict[str, np.ndarray], network: Network) -> dict[str, np.ndarray]:
    if network.arguments["encoder"]["name"] != "vit" or "mask_token" in encoder:
        raise InputError("MAE's names are for a ViT without a mask token of its own, which the decoder has there")
    side = int((encoder["pos_embed"].shape[1] - 1) ** 0.5)
    return encoder | mae_names.decoder_to_torch(network.params["decoder"], side)


def _prefixed(prefix: str, state: State) -> dict[str, np.ndarray]:
    return {f"{prefix}.{name}": array for name, array in state.items()}


def _unwrapped(name: str) -> str:
    """Return a name without what checkpoints and data parallelism put before it."""
    match = _WRAPPED.fullmatch(name)
    return match[1] if match else name
