"""An encoder as an ONNX model, for what runs without JAX and PyTorch: onnxruntime, TensorRT, browsers, phones.

The graph is put together here, operator by operator: two kinds of network need few of them. (jax2onnx would trace
them, but holds orbax-checkpoint below 0.11.37, which is older than what checkpoints are written with here.)
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssljax.errors import InputError
from ssljax.export.network import Network
from ssljax.export.onnx_builder import Graph, need_onnx
from ssljax.models.pure import Params, Pure
from ssljax.models.resnet import resnet
from ssljax.models.vit import vit

DTYPES = ("float32", "float16")
MOST_BYTES = 2**31 - 2**24
"""Of weights in the model's own file, which protobuf bounds at 2 GiB; more go to a file beside it."""
NAME = "model.onnx"
"""Of a model in a folder."""


def to_model(
    network: Network,
    dtype: str = "float32",
    *,
    image_size: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """Return an encoder as an `onnx.ModelProto`.

    Its input is `images`, float32 [batch, 3, height, width], normalised by ImageNet's mean and deviation. A ViT's
    outputs are `cls` [batch, d], `patches` [batch, n, d] and `attention` [batch, heads, n], that of CLS over the
    patches in the last block; a ResNet's are `features` [batch, d] and `patches` [batch, n, d]. They and all sums are
    float32. The batch is of any size, the images of a ResNet are too; those of a ViT have `image_size`.

    Args:
        network: A ViT's or a ResNet's encoder is taken from it.
        dtype: Of the stored matrices and kernels: "float32", or "float16", which halves the file.
        image_size: Side of a ViT's images in pixels, for which positions are interpolated; by default its own.
        metadata: Strings by name, kept in the model.

    Raises:
        InputError: onnx is not installed, the dtype is another, weights overflow it, or patches don't divide the size.
    """
    need_onnx()
    if dtype not in DTYPES:
        raise InputError(
            f"dtype {dtype!r} cannot be had in ONNX, where few runtimes compute in it: use float32 or float16"
        )
    arguments = dict(network.arguments["encoder"])
    kind, params = arguments.pop("name"), network.params["encoder"]
    graph = Graph(half=dtype == "float16")
    if kind == "vit":
        model = Pure(functools.partial(vit, **arguments))
        outputs = _vit(graph, model, params, image_size or model.abstract.image_size)
    else:
        model = Pure(functools.partial(resnet, **arguments))
        outputs = _resnet(graph, model.abstract, params)
    return graph.model(outputs, metadata or {})


def write(model: Any, path: Path, *, most: int = MOST_BYTES) -> None:
    """Write a model, checked by onnx; weights of more than `most` bytes go to a file beside it, model.onnx.data.

    Such weights are moved, not copied: they are no longer in `model` then.

    Raises:
        InputError: The file cannot be written, or needs another beside it and is not the model.onnx of a folder, which
            keeps the two together.
    """
    need_onnx()
    import onnx

    size = sum(len(weight.raw_data) for weight in model.graph.initializer)
    large = size > most
    if large and path.name != NAME:
        raise InputError(f"the weights are {size / 1e9:.1f} GB, more than one ONNX file holds; give a folder")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            part = Path(folder) / path.name
            onnx.save_model(model, part, save_as_external_data=large, location=f"{path.name}.data", size_threshold=1024)
            onnx.checker.check_model(os.fspath(part), full_check=True)
            for file in sorted(Path(folder).iterdir(), reverse=True):  # the weights first, so that they are never amiss
                file.replace(path.with_name(file.name))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error


def _vit(graph: Graph, model: Pure, params: Params, size: int) -> dict[str, Sequence[Any]]:
    """Add a ViT; return its input and outputs with the sizes of their axes."""
    shape = model.abstract
    grid, prefix, p = shape.grid(size, size), 1 + shape.registers, shape.patch_size
    positions = np.asarray(jax.jit(functools.partial(model, grid=grid, method="positions"))(params))
    kernel = np.asarray(params["patch"]["kernel"]).reshape(p, p, 3, -1).transpose(3, 2, 0, 1)
    weights = [graph.weight("patch.kernel", kernel), graph.weight("patch.bias", params["patch"]["bias"])]
    x = graph.op("Conv", "images", *weights, kernel_shape=[p, p], strides=[p, p])
    x = _rows_of_maps(graph, x, shape.width)
    x = graph.op("Add", x, graph.weight("positions", positions[None, 1:]))
    first = [(np.asarray(params["cls"]) + positions[0])[None], *([params["register"]] if shape.registers else [])]
    batch = graph.op("Slice", graph.op("Shape", "images"), graph.whole(0), graph.whole(1))
    batch = graph.op("Concat", batch, graph.whole(prefix, shape.width), axis=0)
    first_tokens = graph.op("Expand", graph.weight("first", np.concatenate(first)[None]), batch)
    x = graph.op("Concat", first_tokens, x, axis=1)
    for i in range(shape.depth):
        x, attention = _block(graph, x, f"blocks.{i}", _layer(params["blocks"], i), shape)
    x = _norm(graph, x, "norm", params["norm"], shape.norm_eps)
    graph.op("Gather", x, graph.index(0), name="cls", axis=1)
    _from(graph, x, prefix, axis=1, name="patches")
    cls_row = graph.op("Gather", attention, graph.index(0), axis=2)
    _from(graph, cls_row, prefix, axis=2, name="attention")
    count = grid[0] * grid[1]
    return {
        "images": ["batch", 3, size, size],
        "cls": ["batch", shape.width],
        "patches": ["batch", count, shape.width],
        "attention": ["batch", shape.heads, count],
    }


def _resnet(graph: Graph, shape: Any, params: Params) -> dict[str, Sequence[Any]]:
    """Add a ResNet; return its input and outputs with the sizes of their axes."""
    stride = 2 if shape.stem == "imagenet" else 1
    x = _convolution(graph, "images", "conv", params["conv"], stride)
    x = graph.op("Relu", _batch_norm(graph, x, "norm", params["norm"], shape.norm.eps))
    if shape.stem == "imagenet":
        x = graph.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for name in shape.names:
        x = _residual(graph, x, name, params[name], getattr(shape, name))
    graph.op("ReduceMean", x, name="features", axes=[2, 3], keepdims=0)
    _rows_of_maps(graph, x, shape.width, name="patches")
    return {
        "images": ["batch", 3, "height", "width"],
        "features": ["batch", shape.width],
        "patches": ["batch", "patches", shape.width],
    }


def _residual(graph: Graph, x: str, name: str, params: Params, shape: Any) -> str:
    """Add a ResNet's block."""
    y = x
    for i in range(1, shape.count + 1):
        layer = getattr(shape, f"conv{i}")
        y = _convolution(graph, y, f"{name}.conv{i}", params[f"conv{i}"], layer.stride)
        y = _batch_norm(graph, y, f"{name}.norm{i}", params[f"norm{i}"], getattr(shape, f"norm{i}").eps)
        y = graph.op("Relu", y) if i < shape.count else y
    if shape.projects:
        x = _convolution(graph, x, f"{name}.shortcut", params["shortcut"], shape.shortcut.stride)
        x = _batch_norm(graph, x, f"{name}.shortcut_norm", params["shortcut_norm"], shape.shortcut_norm.eps)
    return graph.op("Relu", graph.op("Add", y, x))


def _convolution(graph: Graph, x: str, name: str, params: Params, stride: int) -> str:
    kernel = np.asarray(params["kernel"]).transpose(3, 2, 0, 1)
    half, size = kernel.shape[-1] // 2, list(kernel.shape[2:])
    weight = graph.weight(f"{name}.kernel", kernel)
    return graph.op("Conv", x, weight, kernel_shape=size, strides=[stride] * 2, pads=[half] * 4)


def _batch_norm(graph: Graph, x: str, name: str, params: Params, eps: float) -> str:
    weights = [graph.weight(f"{name}.{part}", params[part]) for part in ("scale", "bias", "mean", "var")]
    return graph.op("BatchNormalization", x, *weights, epsilon=eps)


def _block(graph: Graph, x: str, name: str, params: Params, shape: Any) -> tuple[str, str]:
    """Add a transformer block; return its output and its attention [b, h, n, n]."""
    y = _norm(graph, x, f"{name}.norm1", params["norm1"], shape.norm_eps)
    y, attention = _attention(graph, y, f"{name}.attention", params["attention"], shape)
    x = _add(graph, x, y, f"{name}.scale1", params.get("scale1"))
    y = _norm(graph, x, f"{name}.norm2", params["norm2"], shape.norm_eps)
    y = _mlp(graph, y, f"{name}.mlp", params["mlp"], gated=shape.mlp == "swiglu")
    return _add(graph, x, y, f"{name}.scale2", params.get("scale2")), attention


def _attention(graph: Graph, x: str, name: str, params: Params, shape: Any) -> tuple[str, str]:
    size = shape.width // shape.heads
    qkv = _linear(graph, x, f"{name}.qkv", params["qkv"])
    parts = graph.split("Split", qkv, names=[f"{name}.{letter}" for letter in "qkv"], axis=2)
    queries, keys, values = (graph.op("Reshape", part, graph.whole(0, 0, shape.heads, size)) for part in parts)
    queries, values = (graph.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (queries, values))
    logits = graph.op("MatMul", queries, graph.op("Transpose", keys, perm=[0, 2, 3, 1]))
    weights = graph.op("Softmax", graph.op("Mul", logits, graph.number(size**-0.5)), axis=3)
    out = graph.op("Transpose", graph.op("MatMul", weights, values), perm=[0, 2, 1, 3])
    out = graph.op("Reshape", out, graph.whole(0, 0, shape.width))
    return _linear(graph, out, f"{name}.out", params["out"]), weights


def _mlp(graph: Graph, x: str, name: str, params: Params, *, gated: bool) -> str:
    x = _linear(graph, x, f"{name}.fc1", params["fc1"])
    if gated:
        gate, x = graph.split("Split", x, names=[f"{name}.gate", f"{name}.value"], axis=2)
        x = graph.op("Mul", graph.op("Mul", gate, graph.op("Sigmoid", gate)), x)
    else:  # the exact GELU, in the steps that runtimes know to fuse
        erf = graph.op("Erf", graph.op("Div", x, graph.number(2**0.5)))
        x = graph.op("Mul", graph.op("Mul", x, graph.op("Add", erf, graph.number(1.0))), graph.number(0.5))
    return _linear(graph, x, f"{name}.fc2", params["fc2"])


def _linear(graph: Graph, x: str, name: str, params: Params) -> str:
    product = graph.op("MatMul", x, graph.weight(f"{name}.kernel", params["kernel"]))
    return graph.op("Add", product, graph.weight(f"{name}.bias", params["bias"]))


def _norm(graph: Graph, x: str, name: str, params: Params, eps: float) -> str:
    weights = [graph.weight(f"{name}.{part}", params[part]) for part in ("scale", "bias")]
    return graph.op("LayerNormalization", x, *weights, axis=-1, epsilon=eps)


def _add(graph: Graph, x: str, y: str, name: str, scale: Params | None) -> str:
    """Add a branch, after its LayerScale if there is one."""
    if scale is not None:
        y = graph.op("Mul", y, graph.weight(f"{name}.gamma", scale["gamma"]))
    return graph.op("Add", x, y)


def _rows_of_maps(graph: Graph, x: str, width: int, name: str | None = None) -> str:
    """Add what makes rows [b, n, d] of maps [b, d, h, w]."""
    rows = graph.op("Reshape", x, graph.whole(0, width, -1))
    return graph.op("Transpose", rows, name=name, perm=[0, 2, 1])


def _from(graph: Graph, x: str, start: int, *, axis: int, name: str) -> str:
    """Add a slice from `start` to the end."""
    ends = [graph.whole(number) for number in (start, np.iinfo(np.int64).max, axis)]
    return graph.op("Slice", x, *ends, name=name)


def _layer(blocks: Params, index: int) -> Params:
    """Return one layer of stacked blocks."""
    return {
        name: _layer(part, index) if isinstance(part, Mapping) else np.asarray(part)[index]
        for name, part in blocks.items()
    }
