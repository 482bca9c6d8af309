"""Starting a run from pretrained weights (`config.init_from`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from ssljax import build
from ssljax.errors import InputError
from ssljax.export.mae_names import are_fixed
from ssljax.export.network import Network, check_shapes, encoder_arguments, positions_of
from ssljax.export.read import read_network
from ssljax.export.runs import network_of_run
from ssljax.models.pure import Params, Pure, separate
from ssljax.objectives.base import Objective
from ssljax.step import TrainState

_MAY_START = ("mask", "register")
"""What an encoder may have and its weights not: tokens that the weights' objective had no use for."""

_MUST_AGREE = ("mlp",)
_SHOULD_AGREE = ("norm_eps", "position_offset", "position_antialias", "stem")


class Start(NamedTuple):
    """Arrays that take the place of initial ones.

    Attributes:
        params: By path in `TrainState.params`.
        state: By path in `TrainState.state`.
        told: What was matched, resized, skipped and is new, a line each.
    """

    params: dict[tuple[str, ...], np.ndarray]
    state: dict[tuple[str, ...], np.ndarray]
    told: tuple[str, ...]


def read_start(place: str, objective: Objective, abstract: TrainState) -> Start:
    """Return what weights give a run to start from, everything checked and nothing computed on devices.

    The encoder must fit; a head, decoder or projector that does not is told and left as the seed draws it. Student and
    teacher both start from the file's, each from its own copy where it holds two.

    Args:
        place: A file or folder of weights, see `read_network`, or another run's folder.
        objective: Of the run.
        abstract: The run's initial state, by shape.

    Raises:
        InputError: The weights can't be read, or the encoder is of another architecture.
    """
    network = read_any(Path(place))
    models = {role: model for role, model in _models(objective).items() if role in abstract.params}
    if "encoder" not in models:
        raise InputError(f"{type(objective).__name__} has no encoder to start from weights; leave init_from out.")
    _check_encoder(network, models["encoder"], place)
    network, lines = _with_heads(network, models, place)
    told = lines + [f"left out or assumed: {note}" for note in network.notes]
    trained = network.twin if network.averaged and network.twin else network.params
    averaged = network.params if network.averaged else network.twin or network.params
    params, lines = _plant(abstract.params, trained, network, models, place, "")
    told += lines
    state: dict[tuple[str, ...], np.ndarray] = {}
    if "teacher" in abstract.state:
        planted, lines = _plant(abstract.state["teacher"], averaged, network, models, place, "teacher's ")
        state |= {("teacher", *path): array for path, array in planted.items()}
        told += lines
    _, statistics = separate(models["encoder"], network.params["encoder"])
    if "statistics" in abstract.state:
        flat = traverse_util.flatten_dict(statistics)
        state |= {("statistics", *path): array for path, array in flat.items()}
    told += [f"skipped    {role}: the objective has none" for role in network.params if role not in models]
    return Start(params, state, tuple(told))


def read_any(path: Path) -> Network:
    """Return the network of a run's folder, with its heads, or of a file or folder of weights."""
    if not (path / "checkpoints").is_dir():
        return read_network(path)
    network = network_of_run(path, heads=True, twin=True)
    check_shapes(network, path)  # and that they are finite
    return network


def begin(start: Start, state: TrainState) -> TrainState:
    """Return the initial state with the weights in it, each where the state has it on the mesh."""

    def place(tree: Any, arrays: Mapping[tuple[str, ...], np.ndarray]) -> Any:
        flat = traverse_util.flatten_dict(tree, keep_empty_nodes=True)
        for path, array in arrays.items():
            old = flat[path]
            new = np.asarray(array, old.dtype)
            flat[path] = jax.make_array_from_callback(old.shape, old.sharding, new.__getitem__)
        return traverse_util.unflatten_dict(flat)

    return state._replace(params=place(state.params, start.params), state=place(state.state, start.state))


def _models(objective: Objective) -> dict[str, Pure]:
    """Return the objective's models by role; a role without a model is none."""
    return {role: value for role, value in vars(objective).items() if isinstance(value, Pure)}


def _check_encoder(network: Network, model: Pure, place: str) -> None:
    """Raise InputError where shapes might agree and the networks do not."""
    theirs, ours = network.arguments["encoder"], encoder_arguments(model.abstract)
    if theirs["name"] != ours["name"]:
        raise InputError(f"{place} holds a {theirs['name']}, and the config's encoder is a {ours['name']}.")
    for name in _MUST_AGREE:
        if theirs.get(name) != ours.get(name):
            raise InputError(
                f"{place} holds an encoder of {name} {theirs[name]}, and the config's has {ours[name]}: set "
                f"--config.models.encoder.{name}={theirs[name]}."
            )


def _with_heads(network: Network, models: Mapping[str, Pure], place: str) -> tuple[Network, list[str]]:
    """Return the network with as many attention heads as the config has, where the file does not say how many.

    Raises:
        InputError: The file says it, and the config says otherwise: no shape would tell.
    """
    arguments, told = dict(network.arguments), []
    for role in ("encoder", "decoder"):
        if role not in arguments or role not in models or "heads" not in arguments[role]:
            continue
        theirs, ours = arguments[role]["heads"], models[role].abstract.blocks.attention.heads
        if theirs != ours and role not in network.assumed:
            raise InputError(
                f"{place} holds attention of {theirs} heads in its {role}, and the config's has {ours}: set "
                f"--config.models.{role}.heads={theirs}."
            )
        if theirs != ours:
            arguments[role] = arguments[role] | {"heads": ours}
            told.append(f"assumed    {role}'s attention has {ours} heads, as the config says; usual are {theirs}")
    return network._replace(arguments=arguments), told


def _plant(
    tree: Params,
    params: Mapping[str, Params],
    network: Network,
    models: Mapping[str, Pure],
    place: str,
    whose: str,
) -> tuple[dict[tuple[str, ...], np.ndarray], list[str]]:
    """Return a network's arrays by their path in a tree of roles, and what to tell of them."""
    arrays: dict[tuple[str, ...], np.ndarray] = {}
    told: list[str] = []
    for role, model in models.items():
        if role not in tree:
            continue
        if role not in params:
            told.append(f"new        {whose}{role}: not among the weights, as the seed draws it")
            continue
        own, _ = separate(model, params[role])
        target = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(tree[role]).items()}
        source = traverse_util.flatten_dict(own)
        if role == "encoder":
            found, lines = _encoder(target, source, network, model, place, whose)
        else:
            found, lines = _head(target, source, role, whose)
        arrays |= {(role, *path): array for path, array in found.items()}
        told += lines
    return arrays, told


def _encoder(
    target: Mapping[tuple[str, ...], tuple[int, ...]],
    source: Mapping[tuple[str, ...], np.ndarray],
    network: Network,
    model: Pure,
    place: str,
    whose: str,
) -> tuple[dict[tuple[str, ...], np.ndarray], list[str]]:
    found = {path: array for path, array in source.items() if target.get(path) == array.shape}
    told = [f"matched    {whose}encoder: {len(found)} arrays, {sum(a.size for a in found.values()):,} parameters"]
    for path in sorted(target.keys() | source.keys()):
        name = "/".join(path)
        if path in found:
            continue
        if name == "position" and path in source:
            array, line = _positions(source[path], network, model, path in target, place)
            told.append(f"{line[0]:10} {whose}encoder/position: {line[1]}")
            found |= {} if array is None else {path: array}
        elif name in _MAY_START and path not in source:
            told.append(f"new        {whose}encoder/{name}: not among the weights, as the seed draws it")
        elif name == "mask":
            told.append(f"skipped    {whose}encoder/{name}: the config's encoder has none")
        else:
            here, there = target.get(path, "none of it"), source[path].shape if path in source else "none of it"
            raise InputError(
                f"{place} holds another architecture: of encoder/{name} it has {_shape(there)}, and the config's "
                f"encoder {_shape(here)}; {_advice(network, model)}"
            )
    for name in _SHOULD_AGREE:
        theirs, ours = network.arguments["encoder"].get(name), getattr(model.abstract, name, None)
        if theirs != ours:
            told.append(f"differs    encoder's {name}: {theirs} with the weights, {ours} in the config")
    return found, told


def _positions(
    array: np.ndarray, network: Network, model: Pure, learned: bool, place: str
) -> tuple[np.ndarray | None, tuple[str, str]]:
    """Return a ViT's positions for the config's grid, None where it has the same fixed ones, and what was done.

    Raises:
        InputError: The config's are fixed and the weights' are others.
    """
    vit = model.abstract
    grid = vit.grid(vit.image_size, vit.image_size)
    side = network.arguments["encoder"]["image_size"] // network.arguments["encoder"]["patch_size"]
    theirs = build.model("encoder", network.arguments["encoder"])
    params = {**network.params["encoder"], "position": array}
    if learned:
        return positions_of(theirs, params, grid), ("resized", f"{side}x{side} patches to {grid[0]}x{grid[1]}, bicubic")
    if not are_fixed(array):
        raise InputError(
            f"{place} holds positions that are not the config's fixed sines and cosines (MoCo v3's are, with rows and "
            "columns exchanged): set --config.models.encoder.positions=learned, and training begins with the weights'."
        )
    return None, ("skipped", "the weights' are the fixed sines and cosines that the config's encoder has")


def _head(
    target: Mapping[tuple[str, ...], tuple[int, ...]],
    source: Mapping[tuple[str, ...], np.ndarray],
    role: str,
    whose: str,
) -> tuple[dict[tuple[str, ...], np.ndarray], list[str]]:
    """Return a head's arrays where all of them fit, else none; fixed lengths of prototypes are learned on from one."""
    if (path := ("last", "gain")) in target and path not in source:
        source = {**source, path: np.ones(target[path], np.float32)}
    shapes = {path: array.shape for path, array in source.items()}
    if shapes == dict(target):
        count = sum(array.size for array in source.values())
        return dict(source), [f"matched    {whose}{role}: {len(source)} arrays, {count:,} parameters"]
    first = min(path for path in shapes.keys() | target.keys() if shapes.get(path) != target.get(path))
    there, here = shapes.get(first, "none of it"), target.get(first, "none of it")
    return {}, [
        f"skipped    {whose}{role}: of {'/'.join(first)} the weights have {_shape(there)} and the config's "
        f"{_shape(here)}; as the seed draws it"
    ]


def _shape(value: Any) -> str:
    return value if isinstance(value, str) else str(list(value))


def _advice(network: Network, model: Pure) -> str:
    """Return what to set in the config: where the two encoders differ in more than how they compute."""
    theirs, ours = network.arguments["encoder"], encoder_arguments(model.abstract)
    rest = ("name", "size", "image_size", "positions", "mask_token", *_SHOULD_AGREE)
    differ = [name for name in theirs if name not in rest and theirs[name] != ours.get(name)]
    if theirs.get("layer_scale") is not None and ours.get("layer_scale") is not None:
        differ.remove("layer_scale") if "layer_scale" in differ else None
    values = ", ".join(f"{name}={theirs[name]}" for name in differ)
    return f"set in config.models.encoder, in a file where no flag can say it: {values}."
