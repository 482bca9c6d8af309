"""The model card of an exported folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ssljax.export.network import Network
from ssljax.models.resnet import DEPTHS

_MEAN, _DEVIATION = "0.485, 0.456, 0.406", "0.229, 0.224, 0.225"

_OURS = """```python
import ssljax

encoder = ssljax.load("PATH/TO/THIS/FOLDER")
features = encoder(images)  # uint8 [b, h, w, 3] -> features.cls, features.patches, features.attention
```"""

_THEIRS = {
    "dino": """```python
from safetensors.torch import load_file

model.load_state_dict(load_file("model.safetensors"))  # model: of DINO's, DoRA's, DINOv2's, MAE's or MoCo v3's code
```""",
    "timm": """```python
import timm

model = timm.create_model("local-dir:PATH/TO/THIS/FOLDER", pretrained=True)
```""",
    "transformers": """```python
from transformers import AutoModel

model = AutoModel.from_pretrained("PATH/TO/THIS/FOLDER")  # of a ViTModel with add_pooling_layer=False
outputs = model(pixel_values)  # of a ViTModel at other sizes with interpolate_pos_encoding=True
```

Positions of other sizes are interpolated there in its own way; `ssljax export --image-size` writes those of this
package for one size.""",
    "torchvision": """```python
import torch, torchvision
from safetensors.torch import load_file

model = torchvision.models.resnetDEPTH()
model.fc = torch.nn.Identity()
model.load_state_dict(load_file("model.safetensors"))
```""",
    "onnx": """```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
outputs = session.run(None, {"images": images})  # float32 [b, 3, height, width], normalised
```""",
}


def card(network: Network, format: str, dtype: str) -> str:
    """Return the README.md of an exported folder, from what the file itself says: the same for the same network.

    Args:
        network: Whose `source` says where it comes from.
        format: In which it is written.
        dtype: Of the weights.
    """
    source, encoder = network.source, network.arguments["encoder"]
    objective = source.get("objective")
    title = f"{_architecture(encoder)}{f' pretrained with {objective}' if objective else ''}"
    license = source.get("license") or "unknown"
    tags = ["image-feature-extraction", *([objective] if objective else []), "ssljax"]
    front = [
        "---",
        f"license: {_quoted(license)}",
        f"library_name: {_library(format)}",
        "tags:",
        *(f"- {_quoted(tag)}" for tag in tags),
        "---",
    ]
    parts = [
        "\n".join(front),
        f"# {title}",
        "## What it is",
        _what(network, dtype),
        "## How to load it",
        *([_THEIRS[format].replace("DEPTH", str(encoder.get("depth")))] if format in _THEIRS else []),
        *([_OURS] if format != "onnx" else []),
        f"Images are RGB from 0 to 1, less the mean ({_MEAN}), over the deviation ({_DEVIATION}).",
        "## Where it comes from",
        _origin(source),
    ]
    if source.get("metrics"):
        parts += ["## What was measured", _metrics(source["metrics"])]
    if source.get("config"):
        parts += ["## Config", f"```json\n{json.dumps(source['config'], indent=2)}\n```"]
    return "\n\n".join(parts) + "\n"


def _quoted(text: str) -> str:
    """Return a string as YAML takes it, whatever is in it."""
    return json.dumps(text, ensure_ascii=False)


def _architecture(arguments: dict[str, Any]) -> str:
    if arguments["name"] == "resnet":
        whole = DEPTHS[arguments["depth"]][0] == tuple(arguments["blocks"])
        return f"ResNet-{arguments['depth']}" if whole else f"ResNet of {arguments['blocks']} blocks"
    return (
        f"ViT of width {arguments['width']} and depth {arguments['depth']}, patches of {arguments['patch_size']} pixels"
    )


def _library(format: str) -> str:
    return format if format in ("timm", "transformers", "onnx") else "ssljax"


def _what(network: Network, dtype: str) -> str:
    rows = []
    for role, arguments in sorted(network.arguments.items()):
        values = ", ".join(f"{name} {value}" for name, value in sorted(arguments.items()) if name != "name")
        rows.append(f"- {role}: {arguments['name']} ({values})")
    return "\n".join([*rows, f"- weights in {dtype}{', a moving average' if network.averaged else ''}"])


def _origin(source: Mapping[str, Any]) -> str:
    license = source.get("license") or "not stated: ask who trained them"
    if "objective" not in source:
        return f"These weights come from a file that does not say how they were trained.\n\n- licence: {license}"
    data = ", ".join(f"{name} {value!r}" for name, value in source["data"].items()) or "not stated"
    return (
        f"- objective: {source['objective']}\n- updates: {source['step']:,} ({source['samples']:,} samples)\n"
        f"- data: {data}\n- licence: {license}"
    )


def _metrics(metrics: dict[str, dict[str, float]]) -> str:
    rows = [
        f"| {protocol} | {name} | {value:.4g} |" for protocol, found in metrics.items() for name, value in found.items()
    ]
    return "\n".join(["| protocol | metric | value |", "|---|---|---|", *rows])
