"""What every format is written from and read into: a pretrained network in our own terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from ssljax import build
from ssljax.errors import InputError
from ssljax.export.models import model_of
from ssljax.models.pure import Params, Pure
from ssljax.models.resnet import DEPTHS, ResNet
from ssljax.models.vit import SIZES, ViT
from ssljax.objectives.base import Encoder

_COMPUTED = ("dtype", "remat", "attention", "drop_path")  # how a network is computed or trained, not what it is


class Network(NamedTuple):
    """A pretrained network: the arguments that make its parts, and their parameters.

    Attributes:
        arguments: By role those of the part's constructor, as a config's `models` section has them: JSON values, `name`
            among them.
        params: By role nested dicts of float32 NumPy arrays; the statistics of an encoder's batch norms are among them,
            those of heads are not, since pretraining keeps none.
        twin: The other copy, where a training checkpoint holds a student and its moving average; by role.
        averaged: Whether `params` are the moving average, and `twin`, if any, what was trained.
        notes: What reading left out, or assumed because the file does not say it: a sentence each.
        assumed: Roles whose number of attention heads the file does not say.
        source: What a model card says of them: objective, config, data, metrics, licence.
    """

    arguments: dict[str, dict[str, Any]]
    params: dict[str, Params]
    twin: Mapping[str, Params] = MappingProxyType({})
    averaged: bool = False
    notes: tuple[str, ...] = ()
    assumed: frozenset[str] = frozenset()
    source: Mapping[str, Any] = MappingProxyType({})

    @property
    def image_size(self) -> int | None:
        """Side in pixels of the images that it was trained on, or has positions for; None where that is not known."""
        return self.arguments["encoder"].get("image_size", self.source.get("image_size"))


def network_of(encoder: Encoder, *, heads: bool = False, **more: Any) -> Network:
    """Return an encoder as a network; a ViT's fixed positions are written out as learned ones.

    Args:
        encoder: A ViT or a ResNet.
        heads: Whether to take with it what pretraining puts on it, if anything.
        more: Other attributes of `Network`.

    Raises:
        InputError: The encoder is of the user's own making.
    """
    chosen = encoder.heads if heads else {}
    arguments = {"encoder": encoder_arguments(encoder.model.abstract)}
    arguments |= {role: _head_arguments(model) for role, (model, _) in chosen.items()}
    params = {"encoder": _encoder_params(encoder)} | {role: _arrays(params) for role, (_, params) in chosen.items()}
    return Network(arguments, params, **more)


def encoder_of(network: Network) -> Encoder:
    """Return a network as an encoder with its heads, on the default device."""
    models = {role: build.model(role, arguments) for role, arguments in network.arguments.items()}
    params = jax.tree.map(jnp.asarray, network.params)
    heads = {role: (model, params[role]) for role, model in models.items() if role != "encoder"}
    return Encoder(models["encoder"], params["encoder"], heads)


def encoder_arguments(module: Any) -> dict[str, Any]:
    """Return what makes a ViT, with learned positions, or a ResNet again.

    Raises:
        InputError: It is neither.
    """
    if isinstance(module, ViT):
        shape = {"width": module.width, "depth": module.depth, "heads": module.heads}
        size = next((name for name, known in SIZES.items() if known == shape), "s")
        first = ("image_size", "patch_size", "mlp_ratio", "mlp", "registers", "layer_scale", "mask_token")
        last = ("norm_eps", "position_offset", "position_antialias")
        rest = {name: getattr(module, name) for name in first + last}
        return {"name": "vit", "size": size, **shape, **rest, "positions": "learned"}
    if isinstance(module, ResNet):
        made = (module.blocks, module.bottleneck)
        depth = next((depth for depth, known in DEPTHS.items() if known == made), 50 if module.bottleneck else 18)
        rest = {"blocks": list(module.blocks), "width_multiplier": module.width_multiplier, "stem": module.stem}
        return {"name": "resnet", "depth": depth, "bottleneck": module.bottleneck, **rest}
    raise InputError(f"the encoder is a {type(module).__name__}, which no format knows: export a ViT or a ResNet")


def with_image_size(network: Network, size: int) -> Network:
    """Return the network with its ViT's positions resampled to the grid of images of `size` pixels.

    Raises:
        InputError: The encoder has no positions, or its patches don't divide the size.
    """
    arguments = network.arguments["encoder"]
    if size < 1:
        raise InputError(f"--image-size is {size}; give a number of pixels")
    if arguments["name"] != "vit":
        raise InputError("a ResNet has no positions to resample and takes images of any size; leave --image-size out")
    if "decoder" in network.arguments:
        raise InputError("a decoder goes with the size that it was trained on; leave --with-head or --image-size out")
    model = build.model("encoder", arguments)
    grid = model.abstract.grid(size, size)
    changed = network.arguments | {"encoder": arguments | {"image_size": size}}
    return with_encoders(
        network._replace(arguments=changed), lambda params: params | {"position": positions_of(model, params, grid)}
    )


def with_encoders(network: Network, change: Callable[[Params], Params]) -> Network:
    """Return the network with the parameters of its encoder, and of its twin's, changed."""
    parts = (network.params, network.twin)
    params, twin = ({**part, "encoder": change(part["encoder"])} if part else part for part in parts)
    return network._replace(params=dict(params), twin=twin)


def with_arguments(network: Network, arguments: Mapping[str, Any]) -> Network:
    """Return the network with arguments that are known in the place of those that its arrays suggest.

    A head whose prototypes may learn their lengths, all still one, looks like one whose lengths are fixed.
    """
    params = dict(network.params)
    for role, known in arguments.items():
        last = params.get(role, {}).get("last", {})
        if known.get("norm_last_layer") is False and isinstance(last, dict) and last.keys() == {"kernel"}:
            gain = np.ones(np.shape(last["kernel"])[-1:], np.float32)
            params[role] = params[role] | {"last": last | {"gain": gain}}
    return network._replace(arguments=dict(arguments), params=params)


def check_shapes(network: Network, place: object) -> None:
    """Compare every array with the model that the arguments make.

    Raises:
        InputError: Arguments make no model, or arrays are missing, surplus, of another shape, or not finite.
    """
    if "encoder" not in network.arguments:
        raise InputError(f"{place} does not say what its encoder is; export it again, with its metadata.")
    models = {role: model_of(role, arguments, place) for role, arguments in network.arguments.items()}
    for part in (network.params, network.twin):
        for role in sorted(part.keys() | (models.keys() if part is network.params else set())):
            if role not in models or role not in part:
                raise InputError(f"{place} holds the {role} but not what it is, or the other way round; export again.")
            _compare(_shapes(models[role], role), part[role], role, place)


def _compare(expected: Mapping[str, tuple[int, ...]], params: Params, role: str, place: object) -> None:
    arrays = traverse_util.flatten_dict(params, sep="/")
    for name in sorted(expected.keys() | arrays.keys()):
        wanted, shape = expected.get(name), arrays[name].shape if name in arrays else None
        if shape != wanted:
            found = "lacks the array" if shape is None else f"holds {list(shape)} as"
            meant = "has none of it" if wanted is None else f"has {list(wanted)}"
            raise InputError(f"{place} {found} {role}/{name}, but its {role} {meant}; give a whole file.")
    bad = [name for name in arrays if not np.isfinite(arrays[name]).all()]
    if bad:
        raise InputError(
            f"{place} has weights that are not finite ({len(bad)} of {len(arrays)} arrays of its {role}, "
            f"{role}/{bad[0]} the first); take others."
        )


def _shapes(model: Pure, role: str) -> dict[str, tuple[int, ...]]:
    kinds = nnx.Any(nnx.Param, nnx.BatchStat) if role == "encoder" else nnx.Param
    params = nnx.to_pure_dict(nnx.state(model.abstract, kinds))
    return {name: leaf.shape for name, leaf in traverse_util.flatten_dict(params, sep="/").items()}


def _encoder_params(encoder: Encoder) -> Params:
    params, module = dict(encoder.params), encoder.model.abstract
    if isinstance(module, ViT):
        grid = module.grid(module.image_size, module.image_size)
        params["position"] = positions_of(encoder.model, encoder.params, grid)
    return _arrays(params)


def positions_of(model: Pure, params: Params, grid: tuple[int, int]) -> np.ndarray:
    """Return a ViT's positions of CLS and of the patches of a grid [1 + n, d]."""
    return np.asarray(jax.jit(lambda params: model(params, grid, method="positions"))(params))


def _arrays(params: Params) -> Params:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)


def _head_arguments(model: Pure) -> dict[str, Any]:
    arguments = build.model_arguments(model)
    return {name: arguments[name] for name in sorted(arguments) if name not in _COMPUTED}
