"""Networks that were trained on images normalised by another mean and deviation than ImageNet's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssljax.errors import InputError
from ssljax.export.network import Network, with_encoders
from ssljax.models.pure import Params
from ssljax.ops.augment import IMAGENET_MEAN, IMAGENET_STD


def with_our_colours(network: Network, config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> Network:
    """Return a network that takes images normalised by ImageNet's mean and deviation, as all images are here.

    A ViT's patch embedding is linear: what was (x - mean') / std' of the pixels is a factor and a constant of
    (x - mean) / std for each colour, which its kernel and bias take in exactly. A ResNet pads with zeros and cannot.

    Args:
        network: As it was read.
        config: timm's config.json, or another.
        preprocessor: transformers' preprocessor_config.json, or {}.

    Raises:
        InputError: The mean or deviation are no three numbers, or a deviation is 0.
    """
    timm = config.get("pretrained_cfg") or config
    timm = timm if isinstance(timm, Mapping) else {}
    said = preprocessor.get("image_mean", timm.get("mean")), preprocessor.get("image_std", timm.get("std"))
    if preprocessor.get("do_normalize") is False:
        said = [0.0] * 3, [1.0] * 3
    if said == (None, None):
        return network
    bad = InputError(f"the images' mean and deviation are {said[0]} and {said[1]}; give three numbers each")
    try:
        mean, std = (np.asarray(value, np.float64).reshape(3) for value in said)
    except (TypeError, ValueError) as error:
        raise bad from error
    if not np.isfinite([mean, std]).all() or not np.all(std > 0):
        raise bad
    factor, constant = np.asarray(IMAGENET_STD) / std, (np.asarray(IMAGENET_MEAN) - mean) / std
    if np.allclose(factor, 1.0, atol=1e-6) and np.allclose(constant, 0.0, atol=1e-6):
        return network
    colours = f"Its images were normalised by the mean {mean.tolist()} and the deviation {std.tolist()}"
    if network.arguments["encoder"]["name"] != "vit":
        note = f"{colours}, and here by ImageNet's: normalise images yourself, or its features differ."
        return network._replace(notes=(*network.notes, note))

    def folded(params: Params) -> Params:
        patch = params["patch"]
        kernel = np.asarray(patch["kernel"], np.float64).reshape(-1, 3, patch["kernel"].shape[1])  # (pixel, colour, d)
        bias = (patch["bias"] + np.einsum("pcd,c->d", kernel, constant)).astype(np.float32)
        kernel = (kernel * factor[None, :, None]).reshape(patch["kernel"].shape).astype(np.float32)
        return params | {"patch": {"kernel": kernel, "bias": bias}}

    note = f"{colours}: the patch embedding was changed so that it takes those of ImageNet, as all images here."
    return with_encoders(network, folded)._replace(notes=(*network.notes, note))
