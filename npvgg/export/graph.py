"""An ONNX graph while it is written: nodes in order of execution, each named after its module.

    conv = graph.module("stages.0.1.reparam_conv")
    y = conv("Conv", x, conv.weight("weight", w), conv.weight("bias", b), pads=[1, 1, 1, 1])

Nodes, tensors and weights bear timm's module paths, so that whoever has both can compare map by
map: the last node of a module and what it gives are named like the module, whatever comes before is
"path/Operator", and a weight is named as in a state dict.

Opset 13 of December 2020 has every operator needed here; later ones add speed to none of them, and
there are runtimes, TensorRT's and phones' among them, that read no later one.

Sources: onnx `Operators.md`, `IR.md`. The package onnx comes in here alone, and only when called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npvgg.errors import ArgumentError
from npvgg.ops import Array

OPSET = 13
IR_VERSION = 7
"""The version of the file format that came with opset 13."""

MAX_BYTES = 2**31 - 2**24
"""Largest sum of the weights, in bytes: a message of protobuf ends at 2 GiB."""

Dimension = int | str
"""A size, or the name of one that is open."""


@dataclass
class Node:
    """One operation: from tensors to a tensor."""

    kind: str
    inputs: list[str]
    output: str
    name: str
    attributes: dict[str, Any]


@dataclass
class Graph:
    """Nodes and constants in the order in which they were asked for.

    dtype: float32 or float64, that of the arithmetic, to which floating-point constants are rounded
    """

    dtype: np.dtype[Any]
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    size: int = 0

    def module(self, path: str) -> Module:
        """Begin a module of the network."""
        return Module(self, path)

    def add(self, path: str, kind: str, inputs: Sequence[str], attributes: dict[str, Any]) -> str:
        """Append a node inside a module; give the name of its tensor."""
        name = self.unique(f"{path}/{kind}")
        self.nodes.append(Node(kind, list(inputs), name, name, attributes))
        return name

    def unique(self, name: str) -> str:
        """Take a name for a node: itself, or where that is taken with _2, _3, … behind it."""
        count, free = 1, name
        while free in self.names:
            count += 1
            free = f"{name}_{count}"
        self.names.add(free)
        return free

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Keep a constant under a name; floating-point numbers are rounded to the graph's dtype.

        One that is there already, as of a module that is run twice, is the same one.
        Raises ArgumentError where the constants are more than an ONNX file holds.
        """
        if name in self.constants:
            return name
        dtype = self.dtype if array.dtype.kind == "f" else array.dtype
        self.size += array.size * dtype.itemsize
        if self.size > MAX_BYTES:
            raise ArgumentError(
                f"target: expected at most {MAX_BYTES:,} bytes of weights, which is what an ONNX "
                f"file holds, got more with {name}; write safetensors instead"
            )
        self.constants[name] = np.ascontiguousarray(array, dtype)
        return name

    def maker(self, tensor: str) -> Node:
        """Find the node that gives a tensor, among the last ones first."""
        return next(node for node in reversed(self.nodes) if node.output == tensor)

    def rename(self, tensor: str, name: str) -> str:
        """Give a tensor, which no node has read yet, another name."""
        self.maker(tensor).output = name
        return name


@dataclass(frozen=True)
class Module:
    """A module of the network: called with an operator and its inputs, it gives the new tensor.

    Inputs are names of tensors; a number stands for a constant.
    """

    graph: Graph
    path: str

    def __call__(self, kind: str, *inputs: str | float, **attributes: Any) -> str:
        """Append a node; its tensor is an inner one until `ends` says otherwise."""
        names = [i if isinstance(i, str) else self._number(i) for i in inputs]
        return self.graph.add(self.path, kind, names, attributes)

    def __getitem__(self, name: str) -> Module:
        """Return a module inside this one."""
        return Module(self.graph, f"{self.path}.{name}")

    def weight(self, name: str, array: Array) -> str:
        """Keep a weight under its name in a state dict."""
        return self.graph.constant(f"{self.path}.{name}", array)

    def integers(self, name: str, values: Sequence[int]) -> str:
        """Keep a row of integers: a shape, indices."""
        return self.graph.constant(f"{self.path}/{name}", np.array(values, np.int64))

    def ends(self, tensor: str) -> str:
        """Complete the module: this tensor is what it gives, and takes its name with its node.

        Where a module is run twice, as CBAM's bottleneck is, the second time is "path_2".
        """
        name = self.graph.maker(tensor).name = self.graph.unique(self.path)
        return self.graph.rename(tensor, name)

    def _number(self, value: float) -> str:
        return self.graph.constant(f"constant/{value!r}", np.array(value, self.graph.dtype))


def to_proto(
    graph: Graph,
    name: str,
    source: tuple[str, np.dtype[Any], Sequence[Dimension]],
    result: tuple[str, Sequence[Dimension]],
    metadata: Mapping[str, str],
    version: str,
) -> bytes:
    """Return the bytes of an ONNX file: equal graphs give equal bytes.

    source: the input's name, dtype and shape      result: the output's name and shape

    They have passed onnx's own checker, shape inference included.
    Raises ArgumentError where onnx is not installed.
    """
    onnx = import_onnx()
    helper = onnx.helper
    nodes = [helper.make_node(n.kind, n.inputs, [n.output], n.name, **n.attributes)
             for n in graph.nodes]  # fmt: skip
    kind = helper.np_dtype_to_tensor_dtype
    model = helper.make_model(
        helper.make_graph(
            nodes, name,
            [helper.make_tensor_value_info(source[0], kind(source[1]), source[2])],
            [helper.make_tensor_value_info(result[0], kind(graph.dtype), result[1])],
            [onnx.numpy_helper.from_array(a, n) for n, a in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
        producer_name="npvgg", producer_version=version,
    )  # fmt: skip
    helper.set_model_props(model, dict(sorted(metadata.items())))
    data: bytes = model.SerializeToString(deterministic=True)
    onnx.checker.check_model(data, full_check=True)
    return data


def import_onnx() -> Any:
    """Return the package onnx. Raises ArgumentError that says how to get it."""
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError:
        raise ArgumentError(
            "target: expected the package onnx for .onnx: `pip install onnx` (npvgg's extra [onnx])"
        ) from None
    return onnx
