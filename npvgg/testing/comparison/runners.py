"""Others' networks, run on an input with every tensor on the way kept: name → array, in order.

    a callable        what it returns: logits, several arrays, or a dict of them
    npvgg             the output of every block, by the model's own engine
    PyTorch           what every module puts out at every call, by forward hooks, under the
                      module's path; and, for no module makes it, "….sum", which enters attention
                      or activation
    ONNX              every tensor of the graph, by ONNX Runtime, under the path of the module that
                      made it, where the exporter wrote that down, else under its own name

A network is not changed by being watched. ONNX Runtime fuses less when every tensor is an output:
so the graph's own outputs are taken from a run without the others, as in production.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from npvgg.errors import ArgumentError
from npvgg.formats.files import open_regular
from npvgg.formats.untrusted import MAX_NAME, path_text, shown
from npvgg.model import RepVGG
from npvgg.ops import Array

Arrays = dict[str, Array]


class Run(NamedTuple):
    """The tensors of a run, and what has to be said of it.

    watched: whether they are all that a network makes, more than anyone asked for
    fed: whether the input among them is only what it was given
    returned: what a network that is watched returns: the tensors that its users see
    """

    arrays: Arrays
    notes: tuple[str, ...] = ()
    watched: bool = False
    returned: Mapping[str, Array] = MappingProxyType({})
    fed: bool = False


def as_array(value: Any, what: str) -> Array:
    """Return an array of real numbers from whatever a framework has for one. Raises
    ArgumentError.
    """
    if hasattr(value, "detach"):  # a torch tensor: off the graph, off the device, out of bfloat16
        value = value.detach().cpu()
        value = value.float() if "bfloat16" in str(value.dtype) else value
        value = value.numpy()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"candidate: {what}: expected an array, got {error}") from None
    if array.dtype.kind not in "fiu":
        if array.dtype.name == "bfloat16":  # of JAX: NumPy itself has none
            return array.astype(np.float32)
        got = type(value).__name__ if array.dtype.kind == "O" and array.ndim == 0 else array.dtype
        raise ArgumentError(f"candidate: {what}: expected real numbers, got {got}")
    return array


def as_arrays(values: Mapping[Any, Any]) -> Arrays:
    """Return a dict of arrays, under texts as names."""
    for name in values:
        if len(str(name)) > MAX_NAME:
            raise ArgumentError(
                f"candidate: expected names of up to {MAX_NAME} characters, got {shown(str(name))}"
            )
    return {str(name): as_array(value, shown(str(name))) for name, value in values.items()}


def run_callable(function: Callable[[Array], Any], x: Array) -> Run:
    """Call a function with x; one array is the logits, a row of arrays is in our order."""
    answer = function(x)
    if isinstance(answer, Mapping):
        return Run(as_arrays(answer))
    if isinstance(answer, list | tuple):
        return Run(as_arrays(dict(enumerate(answer))))
    return Run({"logits": as_array(answer, "what it returned")})


def run_own(model: RepVGG, x: Array) -> Run:
    """Every block of one of our models, by its engine; the pooled vector, and the logits."""
    found = model.outputs(x, maps=True)
    arrays = dict(found.maps)
    if model.config.global_pool:
        arrays["pool"] = found.pooled
    if model.num_classes:
        arrays["logits"] = found.logits
    return Run(arrays, watched=True)


# --- PyTorch --------------------------------------------------------------------------------------

_BEHIND_THE_SUM = re.compile(r"(.+\.)(attn|se|act|nonlinearity)")


def run_torch(module: Any, x: Array) -> Run:
    """Every module of a torch network, in evaluation mode, in the type of its parameters.

    Raises ArgumentError where it cannot be watched, as a scripted one, or does not run.
    Source: the module paths are those of timm's `byobnet.py` or of DingXiaoH/RepVGG's `repvgg.py`.
    """
    import torch

    arrays: Arrays = {}
    calls: dict[str, int] = {}

    def keep(name: str, value: object) -> None:
        if isinstance(value, torch.Tensor):
            calls[name] = calls.get(name, 0) + 1
            name = name if calls[name] == 1 else f"{name} (call {calls[name]})"
            arrays[name] = as_array(value.detach().clone(), name)  # activations work in place

    def after(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: keep(name, output)

    def before(block: str) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[Any, ...]) -> None:
            if f"{block}sum" not in arrays:
                keep(f"{block}sum", inputs[0])

        return hook

    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise ArgumentError(
            "candidate: expected a torch module that hooks can watch, got a scripted one: give the "
            "module that it was made of, or a function that calls it, for what it returns"
        )
    modes = [(part, part.training) for part in module.modules()]
    hooks = []
    for name, part in module.named_modules():
        if name:
            hooks.append(part.register_forward_hook(after(name)))
        if match := _BEHIND_THE_SUM.fullmatch(name):
            hooks.append(part.register_forward_pre_hook(before(match[1])))
    try:
        parameter = next(module.parameters(), torch.empty(0))
        with torch.no_grad():
            module.eval()  # which need not return it
            answer = module(torch.tensor(x, dtype=parameter.dtype, device=parameter.device))
    except ArgumentError:
        raise
    except Exception as error:  # whatever the user's module raises
        raise ArgumentError(
            f"candidate: expected a torch module that takes {list(x.shape)}, got "
            f"{type(error).__name__}: {shown(str(error), 200)}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        for part, mode in modes:
            part.training = mode
    keep("output", answer)
    note = "the module was in training mode, and was run in evaluation mode"
    notes = (note,) * any(mode for _, mode in modes)
    returned = dict(_tensors("output", answer))
    if not returned:
        kind = type(answer).__name__
        notes += (
            f"no tensor of numbers was found in what it returns ({kind}): only what is inside the "
            "module was compared",
        )
    return Run(arrays, notes, watched=True, returned=returned)


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Array]]:
    """Return the tensors of numbers that a module returns: one, or several in tuples, lists,
    dicts.
    """
    if hasattr(value, "detach"):
        if not value.is_complex() and "bool" not in str(value.dtype):
            yield name, as_array(value, name)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(f"{name}[{key!r}]", item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors(f"{name}[{index}]", item)


# --- ONNX -----------------------------------------------------------------------------------------

_FOLDED = re.compile(r"(.+\.(?:conv_kxk|conv_1x1|rbr_dense|rbr_1x1)\.)conv")


def run_onnx(path: str | os.PathLike[str], x: Array) -> Run:
    """Every tensor of an ONNX graph with one input. Raises ArgumentError where it cannot be run, or
    onnx and onnxruntime are not installed.
    """
    try:
        open_regular(path).close()
    except OSError as error:
        why = error.strerror or error
        raise ArgumentError(f"{path_text(path)}: expected an ONNX model: {why}") from error
    try:
        import onnx
        import onnxruntime  # noqa: F401 - before a large file is read
    except ImportError:
        raise ArgumentError(
            "onnx: expected both packages: `pip install onnx onnxruntime` (npvgg's extra [onnx])"
        ) from None
    try:
        model = onnx.load(path)
    except Exception as error:
        raise ArgumentError(f"{path_text(path)}: expected an ONNX model, got {error}") from error
    try:
        feed = _feed(model.graph, x)
        final = [output.name for output in model.graph.output]
        arrays = _session_run(model, final, feed)
        every = list(_depending_on(model.graph, set(feed)))
        for name in set(every) - set(final):
            model.graph.output.append(onnx.ValueInfoProto(name=name))
        arrays = _session_run(model, every, feed) | arrays
    except ArgumentError:
        raise
    except Exception as error:  # what ONNX Runtime raises has no name that it promises to keep
        raise ArgumentError(f"{path_text(path)}: ONNX Runtime: {error}") from error
    named: Arrays = {}
    for name, array in _by_module(model.graph, arrays):
        named.pop(name, None)  # its place in the order is that of the last tensor
        named[name] = array
    returned = {name: arrays[name] for name in final if name in arrays}
    if named and len(returned) == 1:
        named["output"] = arrays[final[0]]
    notes = tuple(
        f"the graph returns {shown(name)}, which is no array of floating-point numbers, and was "
        "compared with nothing"
        for name in final
        if name not in returned
    )
    return Run(named or arrays, notes, watched=True, returned=returned)


def _feed(graph: Any, x: Array) -> Arrays:
    """Make x what the graph's one input takes: its type, and channels last where only that fits.

    A graph that does not declare how many axes its input has is given x as it is.
    """
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise ArgumentError(f"onnx: expected a graph with one input, got {len(inputs)}")
    kind = inputs[0].type.tensor_type
    types = {1: np.float32, 10: np.float16, 11: np.float64}  # TensorProto's numbers
    if kind.elem_type not in types:
        raise ArgumentError(
            "onnx: expected a graph whose input is floating-point: export without --preprocess"
        )
    x = x.astype(types[kind.elem_type])
    sizes = [size.dim_value for size in kind.shape.dim]  # 0 where it is free
    if not kind.HasField("shape") or _takes(sizes, x.shape):
        return {inputs[0].name: x}
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    if _takes(sizes, last.shape):
        return {inputs[0].name: last}
    raise ArgumentError(
        f"onnx: the graph takes {sizes} (0 is any), the pack's input is {list(x.shape)}: make "
        "the pack with `--size`, or export with `npvgg convert --dynamic-size`"
    )


def _takes(sizes: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether an input of these declared sizes, 0 for any, takes an array of this shape."""
    return len(sizes) == len(shape) and all(a in (0, b) for a, b in zip(sizes, shape, strict=True))


def _depending_on(graph: Any, known: set[str]) -> Iterator[str]:
    """Return the tensors that are computed from the input, in order: the others are but weights."""
    for node in graph.node:
        if known.intersection(node.input):
            known.update(node.output)
            yield from filter(None, node.output)


def _session_run(model: Any, outputs: Sequence[str], feed: Arrays) -> Arrays:
    """Return the outputs that are arrays of floating-point numbers, in order."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; the rest is about its own optimizations
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    values = session.run(list(outputs), feed)
    return {
        name: value
        for name, value in zip(outputs, values, strict=True)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f"
    }


def _by_module(graph: Any, arrays: Arrays) -> Iterator[tuple[str, Array]]:
    """Return the tensors under the paths of modules; of all that a module makes, the last is its
    own.

    What is added in a block itself is its sum; and where a branch's convolution has a bias, the
    exporter has folded the batch norm into it.
    """
    for node in graph.node:
        path = _module(node)
        if not path or node.output[0] not in arrays:
            continue
        array = arrays[node.output[0]]
        if node.op_type == "Add":
            yield f"{path}.sum", array
        folded = _FOLDED.fullmatch(path)
        if folded and node.op_type == "Conv" and len(node.input) == 3:
            path = f"{folded[1]}bn"
        while path:
            yield path, array
            path = path.rpartition(".")[0]


def _module(node: Any) -> str:
    """Return the path of the module that a node was exported from, "" where nothing tells.

    TorchScript's exporter names tensors "/stages/stages.0/stages.0.1/act/Relu_output_0"; the newer
    one notes the paths of all modules around a node in its metadata.
    """
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes: list[str] = re.findall(r"'([^']*)'", entry.value)
            return scopes[-2] if len(scopes) > 1 else ""
    path = ""
    for part in node.output[0].split("/")[1:-1]:
        path = part if not path or part.startswith(f"{path}.") else f"{path}.{part}"
    return path
