"""The names, layouts and files of `transformers`: ViTModel, Dinov2Model, ViTMAEForPreTraining, ResNetModel and kin.

Written are the names of the checkpoints on the hub, which versions 4 and 5 both take; those of version 5's own
modules are read as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ssljax.errors import InputError
from ssljax.export import huggingface_resnet, huggingface_vit
from ssljax.export.network import Network
from ssljax.ops.augment import IMAGENET_MEAN, IMAGENET_STD

FAMILIES = {"vit": huggingface_vit, "resnet": huggingface_resnet}

SURPLUS = {
    r"classifier\.(.+\.)?(weight|bias)": "The classifier was left out",
    r"(.+\.)?pooler\.dense\.(weight|bias)": "The pooler, a layer on the CLS token, was left out",
    r".+\.num_batches_tracked": "The numbers of batches that batch norms had seen were left out",
}
"""What a file may hold beside the network, and what is said of it."""

FREE = ("architectures", "model_type", "qkv_bias", "use_layerscale", "use_mask_token")
"""Entries of config.json that may differ from ours where shapes and computation are the same."""


def to_state(network: Network) -> dict[str, np.ndarray]:
    """Return the network's parameters under the hub's names: a ViT's, or with a MAE's decoder that of both, or a
    ResNet's with its batch norms' statistics.

    What a class cannot do without and the network has not is written so that it does nothing: LayerScales of one, a
    mask token of zeros (which config.json tells, so that reading leaves them out). Positions of other image sizes are
    interpolated as the class does it, whatever the encoder's own way: without antialiasing and offset, with registers
    with antialiasing.

    Raises:
        InputError: No class of transformers is such a network.
    """
    return dict(sorted(_family(network).to_state(network).items()))


def config_files(network: Network) -> dict[str, dict[str, Any]]:
    """Return config.json, and preprocessor_config.json: the evaluations' resizing, cropping and colours.

    A ResNet, which takes images of any size, gets ones of 224 pixels.

    Raises:
        InputError: No class of transformers is such a network.
    """
    config = _family(network).config(network)
    size = config.get("image_size", 224)
    processor = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": round(size * 256 / 224) if size >= 64 else size},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }
    return {"config.json": config, "preprocessor_config.json": processor}


def recognises(state: Mapping[str, np.ndarray]) -> bool:
    """Return whether the names are of one of these classes."""
    return _place(state) is not None


def from_state(state: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Network:
    """Return the network of a checkpoint of transformers 4 or 5, with or without a task's head around it.

    Positions are interpolated to other sizes as the class does it. An image classifier's or a pooler's arrays are
    left out with a note.

    Args:
        state: Arrays by name.
        config: Of config.json; without one what the shapes don't say is assumed, with a note.

    Raises:
        InputError: A name is unknown or missing, the model is of another kind, or config and arrays disagree.
    """
    place = _place(state)
    if place is None:
        raise InputError("the weights are of none of transformers' ViT, DINOv2, ViTMAE and ResNet models")
    family, prefix = place
    kind = config.get("model_type", FAMILIES[family].TYPES[0])
    if kind not in FAMILIES[family].TYPES:
        raise InputError(
            f"config.json has model_type {kind!r}; these arrays can be read as {' or '.join(FAMILIES[family].TYPES)}"
        )
    left = {name: next((note for p, note in SURPLUS.items() if re.fullmatch(p, name)), None) for name in state}
    notes = []
    for note in dict.fromkeys(note for note in left.values() if note):
        names = sorted(name for name in state if left[name] == note)
        notes.append(f"{note} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''}).")
    kept = {name: array for name, array in state.items() if left[name] is None}
    network = FAMILIES[family].from_state(kept, prefix, config)
    _check_config(config, FAMILIES[family].config(network))
    said = {"encoder": "num_attention_heads", "decoder": "decoder_num_attention_heads"}
    assumed = frozenset(role for role, key in said.items() if key not in config)
    return network._replace(notes=(*notes, *network.notes), assumed=assumed)


def _family(network: Network) -> Any:
    name = network.arguments["encoder"]["name"]
    if name not in FAMILIES:
        raise InputError(f"the encoder is a {name!r}, which transformers has no class for: export a ViT or a ResNet")
    surplus = sorted(network.params.keys() - {"encoder", *(["decoder"] if name == "vit" else [])})
    if surplus:
        raise InputError(f"transformers has no place for the {surplus[0]}: export the encoder without it")
    return FAMILIES[name]


def _place(state: Mapping[str, np.ndarray]) -> tuple[str, str] | None:
    """Return the family and what stands before its names, "" or such as "vit."."""
    for family, module in FAMILIES.items():
        for name in state:
            if re.fullmatch(r"(\w+\.)?" + re.escape(module.FIRST), name):
                return family, name.removesuffix(module.FIRST)
    return None


def _check_config(config: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Compare a file's config with that of the network which was read from its arrays."""
    for key, value in ours.items():
        said = config.get(key, value)
        if key in ("image_size", "patch_size") and isinstance(said, list) and said and said == said[:1] * len(said):
            said = said[0]
        if key not in FREE and said != value:
            raise InputError(f"config.json has {key} {said!r}, but the arrays are those of a model with {value!r}")
