"""The deploy network as files that the rivals read: ONNX, and ncnn's pair of text and numbers.

Only what the published variants need: 3×3 convolutions with ReLU, squeeze-excite between or behind
them, average pooling, one linear layer.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np


def write_onnx(model: Any, path: Path) -> None:
    """Write a model as ONNX, opset 17, input `x` (N, C, H, W) and output `logits`."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    nodes, constants = [], []

    def constant(name: str, array: Any) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    at = "x"
    for block in model.network.reparameterized().blocks:
        spec, name = block.spec, block.spec.name
        weights = [constant(f"{name}.w", block.form.weight), constant(f"{name}.b", block.form.bias)]
        pad = spec.dilation
        at = node(
            "Conv", [at, *weights], f"{name}.conv", kernel_shape=[3, 3], pads=[pad] * 4,
            strides=[spec.stride] * 2, dilations=[spec.dilation] * 2, group=spec.groups,
        )  # fmt: skip
        if spec.attn_after_act:
            at = node("Relu", [at], f"{name}.relu")
        if spec.attn_layer == "se":
            a = block.attention
            squeezed = node("GlobalAveragePool", [at], f"{name}.mean")
            for layer, act in (("fc1", "Relu"), ("fc2", "Sigmoid")):
                weights = [
                    constant(f"{name}.{layer}.{k}", a[f"{layer}.{k}"]) for k in ("weight", "bias")
                ]
                squeezed = node(
                    "Conv", [squeezed, *weights], f"{name}.{layer}", kernel_shape=[1, 1]
                )
                squeezed = node(act, [squeezed], f"{name}.{layer}.act")
            at = node("Mul", [at, squeezed], f"{name}.scaled")
        elif spec.attn_layer is not None:
            raise NotImplementedError(f"attn_layer {spec.attn_layer}")
        if not spec.attn_after_act:
            at = node("Relu", [at], f"{name}.relu")
    at = node("GlobalAveragePool", [at], "pooled")
    at = node("Flatten", [at], "features", axis=1)
    head = model.network.head
    weights = [constant("head.w", head.weight), constant("head.b", head.bias)]
    node("Gemm", [at, *weights], "logits", transB=1)
    shape = ["N", model.config.in_chans, "H", "W"]
    graph = helper.make_graph(
        nodes, model.name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", model.num_classes])],
        constants,
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(proto)
    save(proto, str(path))


def write_ncnn(model: Any, path: Path) -> None:
    """Write path.param and path.bin in ncnn's formats, weights in float32.

    Source: the ncnn wiki, "param and model file structure" and "operation param weight table".
    """
    lines, blob = ["Input x 0 1 x"], bytearray()
    at, blobs = "x", 1

    def layer(kind: str, inputs: list[str], outputs: list[str], params: str = "") -> str:
        nonlocal blobs
        blobs += len(outputs)
        name = outputs[0]
        lines.append(
            f"{kind} {name} {len(inputs)} {len(outputs)} {' '.join(inputs + outputs)} {params}"
        )
        return name

    def weights(weight: Any, bias: Any) -> None:
        blob.extend(struct.pack("<I", 0))  # as float32
        blob.extend(np.ascontiguousarray(weight, "<f4").tobytes())
        blob.extend(np.ascontiguousarray(bias, "<f4").tobytes())

    for block in model.network.reparameterized().blocks:
        spec, form = block.spec, block.form
        name, relu = spec.name, int(spec.attn_layer is None)
        chs, size = spec.out_chs, form.weight.size
        params = (
            f"0={chs} 1=3 2={spec.dilation} 3={spec.stride} 4={spec.dilation} 5=1 6={size} 9={relu}"
        )
        kind = "Convolution" if spec.groups == 1 else "ConvolutionDepthWise"
        grouped = "" if spec.groups == 1 else f" 7={spec.groups}"
        at = layer(kind, [at], [f"{name}.conv"], params + grouped)
        weights(form.weight, form.bias)
        if spec.attn_layer == "se":
            if spec.attn_after_act:
                at = layer("ReLU", [at], [f"{name}.relu"])
            one, two = f"{name}.a", f"{name}.b"
            layer("Split", [at], [one, two])
            squeezed = layer("Pooling", [one], [f"{name}.mean"], "0=1 4=1")
            for fc, act in (("fc1", 1), ("fc2", 4)):
                weight, bias = block.attention[f"{fc}.weight"], block.attention[f"{fc}.bias"]
                params = f"0={len(bias)} 1=1 2={weight.size} 9={act}"
                squeezed = layer("InnerProduct", [squeezed], [f"{name}.{fc}"], params)
                weights(weight, bias)
            squeezed = layer("Reshape", [squeezed], [f"{name}.gate"], f"0=1 1=1 2={chs}")
            at = layer("BinaryOp", [two, squeezed], [f"{name}.scaled"], "0=2")
            if not spec.attn_after_act:
                at = layer("ReLU", [at], [f"{name}.relu"])
    at = layer("Pooling", [at], ["pooled"], "0=1 4=1")
    head = model.network.head
    layer("InnerProduct", [at], ["logits"], f"0={len(head.bias)} 1=1 2={head.weight.size}")
    weights(head.weight, head.bias)
    text = "\n".join(["7767517", f"{len(lines)} {blobs}", *lines, ""])
    path.with_suffix(".param").write_text(text, encoding="ascii")
    path.with_suffix(".bin").write_bytes(blob)
