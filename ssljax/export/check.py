"""Whether an exported file means elsewhere what its network means here."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssljax.errors import InputError
from ssljax.export.files import need_torch
from ssljax.export.network import Network, encoder_of

CHECKED = {
    "dino": ("torch", "torch"),
    "transformers": ("transformers", "transformers"),
    "onnx": ("onnxruntime", "onnx"),
}
"""The formats that are checked: with which package, and the extra that installs it."""


def need(format: str, dtype: str, network: Network) -> None:
    """Raise InputError where a format can't be checked, or not here, or not of this network."""
    if format not in CHECKED:
        raise InputError(f"--check is for the formats {', '.join(CHECKED)}, not {format!r}; leave it out.")
    if dtype != "float32":
        raise InputError(f"--check compares float32, and --dtype is {dtype}; leave one of them out.")
    package, extra = CHECKED[format]
    if importlib.util.find_spec(package) is None:
        raise InputError(f"--check needs {package}, which is not installed: pip install 'ssljax[{extra}]'")
    if format != "onnx":
        need_torch("--check")
    others = network.arguments.keys() - {"encoder", "head", "patch_head"}
    if format == "dino" and (network.arguments["encoder"]["name"] != "vit" or others):
        raise InputError("--check of the format 'dino' is for ViTs, alone or with DINO's heads; leave it out.")


def largest_difference(path: Path, network: Network, format: str) -> float:
    """Return the largest absolute difference of an encoder's features, over random images, both sides in float32.

    PyTorch computes a file of DINO's names as `torch_vit` says, transformers and onnxruntime theirs as they do.

    Args:
        path: As it was written.
        network: What was written.
        format: One of `CHECKED`.
    """
    encoder, arguments = encoder_of(network), network.arguments["encoder"]
    size = arguments.get("image_size", 224)
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        out = jax.jit(encoder.model)(encoder.params, jnp.asarray(images))
    parts = [np.asarray(out.patches)]
    if arguments["name"] == "vit":
        parts = [np.asarray(out.cls)[:, None], *parts]
    theirs = {"dino": _torch, "transformers": _transformers, "onnx": _onnx}[format](path, images, network)
    return float(np.abs(np.concatenate(parts, axis=1) - theirs).max())


def hyperparameters(vit: Any) -> dict[str, Any]:
    """Return what a state dict doesn't say of its ViT."""
    return {
        "heads": vit.heads,
        "eps": vit.norm_eps,
        "offset": vit.position_offset,
        "antialias": vit.position_antialias,
    }


def _torch(path: Path, images: np.ndarray, network: Network) -> np.ndarray:
    from ssljax.export import torch_vit

    state = torch_vit.load(path / "model.safetensors" if path.is_dir() else path)
    if "backbone.cls_token" in state:
        state = {name.removeprefix("backbone."): x for name, x in state.items() if name.startswith("backbone.")}
    return torch_vit.features(state, images, **hyperparameters(encoder_of(network).model.abstract))


def _transformers(path: Path, images: np.ndarray, network: Network) -> np.ndarray:
    import torch
    from transformers import AutoModel

    options = {"mask_ratio": 0.0} if "decoder" in network.arguments else {}
    model = AutoModel.from_pretrained(path, **options).eval()
    pixels = torch.tensor(images).permute(0, 3, 1, 2)
    with torch.inference_mode():
        if "decoder" in network.arguments:  # no patch is hidden, and by this noise they stay in order
            noise = torch.arange(model.config.image_size**2 // model.config.patch_size**2).expand(len(images), -1)
            tokens = model(pixels, noise=noise.float()).last_hidden_state
        else:
            tokens = model(pixels).last_hidden_state
    if network.arguments["encoder"]["name"] == "resnet":
        return tokens.flatten(2).transpose(1, 2).numpy()
    registers = network.arguments["encoder"].get("registers", 0)
    return torch.cat([tokens[:, :1], tokens[:, 1 + registers :]], dim=1).numpy()


def _onnx(path: Path, images: np.ndarray, network: Network) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path / "model.onnx" if path.is_dir() else path)
    outputs = dict(
        zip(
            (o.name for o in session.get_outputs()),
            session.run(None, {"images": images.transpose(0, 3, 1, 2)}),
            strict=True,
        )
    )
    if network.arguments["encoder"]["name"] == "resnet":
        return outputs["patches"]
    return np.concatenate([outputs["cls"][:, None], outputs["patches"]], axis=1)
