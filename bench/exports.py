"""The deploy network as ncnn's pair of files, text and numbers; `npvgg.export` writes ONNX.

Only what the published variants need: 3×3 convolutions with ReLU, squeeze-excite between or behind
them, average pooling, one linear layer.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np


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
