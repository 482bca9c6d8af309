"""An ONNX graph put together operator by operator."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssljax.errors import InputError

OPSET, IR_VERSION = 17, 8
"""The first opset with LayerNormalization; onnxruntime takes it since 1.12 of 2022."""


def need_onnx() -> None:
    """Raise an InputError that says what to install, where onnx is missing."""
    if importlib.util.find_spec("onnx") is None:
        raise InputError("format 'onnx' needs onnx, which is not installed: pip install 'ssljax[onnx]'")


class Graph:
    """Operators, weights and outputs as they are added; every operator returns its output's name."""

    def __init__(self, *, half: bool) -> None:
        from onnx import ModelProto

        self.half = half
        self.proto = ModelProto()  # filled as it is: helper.make_graph and make_model each copy the weights
        self.nodes, self.weights = self.proto.graph.node, self.proto.graph.initializer

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add an operator with one output."""
        return self.split(kind, *inputs, names=[name or f"{kind}_{len(self.nodes)}"], **attributes)[0]

    def split(self, kind: str, *inputs: str, names: Sequence[str], **attributes: Any) -> list[str]:
        """Add an operator with several outputs."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, names, name=f"node_{names[0]}", **attributes))
        return list(names)

    def weight(self, name: str, array: Any) -> str:
        """Add a weight: matrices and kernels in half precision if that is wanted, all else in float32."""
        from onnx import TensorProto, numpy_helper

        array = np.asarray(array, np.float32)
        if not (self.half and array.ndim > 1):
            self.weights.append(numpy_helper.from_array(array, name))
            return name
        with np.errstate(over="ignore"):
            halved = array.astype(np.float16)
        if not np.isfinite(halved).all():
            raise InputError(f"float16 cannot hold {name}, which has values up to {np.abs(array).max():.3g}")
        self.weights.append(numpy_helper.from_array(halved, f"{name}.half"))
        return self.op("Cast", f"{name}.half", name=name, to=TensorProto.FLOAT)

    def whole(self, *numbers: int) -> str:
        """Add whole numbers [n], as shapes, starts and ends are given."""
        return self._constant("_".join(["numbers", *map(str, numbers)]), np.asarray(numbers, np.int64))

    def index(self, number: int) -> str:
        """Add a whole number as a scalar."""
        return self._constant(f"index_{number}", np.asarray(number, np.int64))

    def number(self, value: float) -> str:
        """Add a float32 scalar."""
        return self._constant(f"number_{value:.9g}", np.asarray(value, np.float32))

    def _constant(self, name: str, array: np.ndarray) -> str:
        """Add what several operators may share, once."""
        from onnx import numpy_helper

        if all(weight.name != name for weight in self.weights):
            self.weights.append(numpy_helper.from_array(array, name))
        return name

    def model(self, outputs: Mapping[str, Sequence[Any]], metadata: Mapping[str, str]) -> Any:
        """Return the model; each output by the sizes of its axes, the first of them being those of `images`."""
        from onnx import TensorProto, helper

        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
        self.proto.graph.name, self.proto.producer_name, self.proto.ir_version = "encoder", "ssljax", IR_VERSION
        self.proto.graph.input.extend(infos[:1])
        self.proto.graph.output.extend(infos[1:])
        self.proto.opset_import.append(helper.make_opsetid("", OPSET))
        helper.set_model_props(self.proto, dict(metadata))
        return self.proto
