"""Files that npvgg wrote, run by OpenVINO and ncnn with every block watched. Imports no npvgg.

ONNX Runtime is not here: the kit itself runs ONNX files by it.
"""

import numpy as np

SQUEEZE = {"rd_ratio", "rd_divisor"}
"""Options of squeeze-excite that ncnn's files have words for."""


def by_openvino(path, names, x):
    """Those of these tensors that the graph has, and its own output from a run without them.

    In float32, whatever the processor would rather do.
    """
    import openvino

    core = openvino.Core()
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}

    def run(watched):
        graph = core.read_model(path)
        own = graph.output(0).any_name
        known = {name for op in graph.get_ordered_ops() for o in op.outputs() for name in o.names}
        watched = [name for name in watched if name in known]
        graph.add_outputs([name for name in watched if name != own])
        graph.reshape(list(x.shape))
        compiled = core.compile_model(graph, "CPU", config)
        result = compiled([x])
        return {name: np.array(result[compiled.output(name)]) for name in watched or [own]}

    return run(names) | run([])


def ncnn_has_words_for(config):
    """Whether bench/exports.py writes such a network for ncnn."""
    squeeze = config.attn_layer in (None, "se") and config.attn_kwargs.keys() <= SQUEEZE
    head = config.global_pool == "avg" and config.num_classes > 0
    return squeeze and head and config.act_layer == "relu"


def by_ncnn(path, blocks, x):
    """Every block of a network of bench/exports.py, pool and logits, image by image.

    In float32: by default ncnn halves the precision of what it stores.
    """
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads, net.opt.lightmode = 1, False
    for half in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{half}", False)
    net.load_param(str(path.with_suffix(".param")))
    net.load_model(str(path.with_suffix(".bin")))
    blobs = {"pool": "pooled", "logits": "logits"}
    for spec in (block.spec for block in blocks):
        last = "scaled" if spec.attn_after_act else "relu"
        blobs[spec.name] = f"{spec.name}.{last if spec.attn_layer else 'conv'}"
    images = []
    for image in x:
        extractor = net.create_extractor()
        extractor.input("x", ncnn.Mat(image))
        images.append({name: np.array(extractor.extract(b)[1]) for name, b in blobs.items()})
    return {name: np.stack([said[name] for said in images]) for name in blobs}
