"""Everybody who runs, behind one interface: make(model name, threads) → a function of x.

Each gets the same seeded weights in deploy form, from a file in the format that it reads, and
computes in float32, but for two of bfloat16; where a rival stores weights in half precision by
default, that is said in the notes of the report.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import npvgg
from bench.exports import write_ncnn
from npvgg.export import export_onnx

Run = Callable[[Any], Any]

FILES = "NPVGG_BENCH_FILES"
"""The environment variable with the folder of the contenders' files, for one run of the bench."""


def exported(name: str, suffix: str) -> Path:
    """Return the file of a network in one of the formats; it is written when first asked for."""
    folder = Path(os.environ.get(FILES) or tempfile.mkdtemp(prefix="npvgg-bench-"))
    os.environ[FILES] = str(folder)
    path = folder / f"{name}{suffix}"
    if not path.exists():
        model: Any = npvgg.create_model(name, seed=0, engine="reference")
        temporary = folder / secrets.token_hex(8)
        temporary.mkdir()
        write = {
            ".safetensors": model.save,
            ".onnx": lambda p: export_onnx(model, p, dynamic_size=True),
            ".param": lambda p: write_ncnn(model, p),
        }[suffix]
        write(temporary / path.name)
        for file in sorted(temporary.iterdir()):  # .bin before .param, which is the sign
            file.replace(folder / file.name)
        temporary.rmdir()
    return path


def network(name: str, **options: Any) -> Any:
    """Return the model that all run: random weights, of which all make the same."""
    return npvgg.create_model(name, weights=exported(name, ".safetensors"), **options)


def make_npvgg(engine: str) -> Callable[[str, int], Run]:
    """Return npvgg with one of its engines."""
    return lambda name, threads: network(name, engine=engine, threads=threads)


def make_onnxruntime(name: str, threads: int) -> Run:
    """Return ONNX Runtime, CPU provider, all optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(exported(name, ".onnx")), options, providers=["CPUExecutionProvider"]
    )
    return lambda x: session.run(None, {"x": x})[0]


def make_openvino(name: str, threads: int, precision: str | None = "f32") -> Run:
    """Return OpenVINO on the CPU, compiled for every shape that comes; None: in what it likes."""
    import openvino

    core = openvino.Core()
    graph = core.read_model(str(exported(name, ".onnx")))
    compiled: dict[tuple[int, ...], Any] = {}

    def run(x: Any) -> Any:
        if x.shape not in compiled:
            graph.reshape(list(x.shape))
            config = {"INFERENCE_NUM_THREADS": str(threads), "PERFORMANCE_HINT": "LATENCY"}
            if precision is not None:
                config["INFERENCE_PRECISION_HINT"] = precision
            compiled[x.shape] = core.compile_model(graph, "CPU", config)
        return compiled[x.shape]([x])[0]

    return run


def make_ncnn(name: str, threads: int, **exact: bool) -> Run:
    """Return ncnn as it comes; it takes one image at a time."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    for option, value in exact.items():
        setattr(net.opt, option, value)
    path = exported(name, ".param")
    net.load_param(str(path))
    net.load_model(str(path.with_suffix(".bin")))

    def run(x: Any) -> Any:
        results = []
        for image in x:
            extractor = net.create_extractor()
            extractor.input("x", ncnn.Mat(image))
            results.append(np.array(extractor.extract("logits")[1]))
        return np.stack(results)

    return run


def make_torch(name: str, threads: int, autocast: bool = False) -> Run:
    """Return PyTorch's eager mode, channels-last, over the folded convolutions; with autocast the
    convolutions are in bfloat16.
    """
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", message=".*not writable")  # nobody writes
    model = network(name, engine="reference")
    tensor = torch.from_numpy
    last = torch.channels_last
    blocks = [
        (b.spec, tensor(b.form.weight).contiguous(memory_format=last), tensor(b.form.bias),
         {k: tensor(v) for k, v in b.attention.items()})
        for b in model.network.blocks
    ]  # fmt: skip
    weight, bias = tensor(model.network.head.weight), tensor(model.network.head.bias)
    del model  # the weights are PyTorch's now

    def attend(x: Any, a: dict[str, Any]) -> Any:
        squeezed = x.mean((2, 3), keepdim=True)
        squeezed = F.relu(F.conv2d(squeezed, a["fc1.weight"], a["fc1.bias"]))
        return x * F.conv2d(squeezed, a["fc2.weight"], a["fc2.bias"]).sigmoid()

    def run(array: Any) -> Any:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            x = tensor(array).contiguous(memory_format=last)
            for s, w, b, a in blocks:
                x = F.conv2d(x, w, b, s.stride, s.dilation, s.dilation, s.groups)
                if s.attn_after_act:
                    x = attend(x.relu_(), a)
                else:
                    x = (attend(x, a) if s.attn_layer else x).relu_()
            return F.linear(x.mean((2, 3)), weight, bias).float().numpy()

    return run


def make_onnx_reference(name: str, threads: int) -> Run:
    """Return onnx's own evaluator in NumPy, as it comes."""
    from onnx.reference import ReferenceEvaluator

    session = ReferenceEvaluator(str(exported(name, ".onnx")))
    return lambda x: session.run(None, {"x": x})[0]


CONTENDERS: dict[str, Callable[[str, int], Run]] = {
    "npvgg winograd": make_npvgg("winograd"),
    "npvgg im2col": make_npvgg("im2col"),
    "ncnn": make_ncnn,
    "onnxruntime": make_onnxruntime,
    "openvino": make_openvino,
    "pytorch": make_torch,
    # in bfloat16, where the processor has units for it, at some ten thousand times the error
    "openvino as it comes": lambda name, threads: make_openvino(name, threads, None),
    "pytorch autocast": lambda name, threads: make_torch(name, threads, autocast=True),
    "npvgg reference": make_npvgg("reference"),
    "onnx.reference": make_onnx_reference,
}
"""Name in the tables → what makes it. The first of a race is what its ratios compare with."""

READABLE = ("npvgg reference", "onnx.reference")
"""Those that are there to be read: they have a race of their own."""

MODULES = {
    "ncnn": "ncnn", "onnxruntime": "onnxruntime", "openvino": "openvino", "pytorch": "torch",
    "openvino as it comes": "openvino", "pytorch autocast": "torch", "onnx.reference": "onnx",
}  # fmt: skip
"""The package that a rival needs; without it the rival is left out, and the report says so."""
