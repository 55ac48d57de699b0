"""Write what PyTorch says, for tests/test_golden.py: tests/golden/networks.json and networks.npz.

Needs timm and torch, and the published original; run it from the root of the repository:

    export NPVGG_ORIGINAL=/path/to/RepVGG
    python -m weights_tools.make_goldens

Weights and images come from tests/oracles/formula.py. Every variant is here, A0, A2 and nano at
full width, the others at a quarter of it or less (their full widths: as shapes and parameter counts
here, as numbers in tests/cross), and every keyword of a configuration, on a small network. Per
case:

- the truth: the train form in float64 (folding it changes it by 1e-13 of its maximum at most);
- PyTorch's own float32 error, max |y32 - y64| of each tensor, in train form and folded.

timm lacks the g2 variants and RepVGGplus: those come from the original, with its own names.
"""

import json
import sys
from pathlib import Path

import numpy as np
import timm
import torch

from tests.oracles import formula, judge, original_peer, timm_peer

GOLDEN = Path("tests/golden")
SMALL = {"depths": (2, 3, 2, 1), "widths": (16, 24, 32, 40), "stem_chs": 16, "num_classes": 11}
PHOTO = (2, 3, 45, 37)
QUARTER = {"width_factor": 0.25, "num_classes": 50}
ACTS = (
    "relu", "relu6", "leaky_relu", "silu", "swish", "gelu", "gelu_tanh", "quick_gelu", "mish",
    "elu", "celu", "selu", "sigmoid", "tanh", "hard_sigmoid", "hard_swish", "hard_mish", "identity",
)  # fmt: skip
ATTENTIONS = {
    "se": [
        {},
        {"rd_ratio": 0.25, "rd_divisor": 4, "gate_layer": "hard_sigmoid"},
        {"rd_channels": 5, "add_maxpool": True, "bias": False, "act_layer": "silu"},
    ],
    "ese": [{}, {"add_maxpool": True, "gate_layer": "sigmoid"}],
    "eca": [{}, {"gamma": 1, "beta": 2, "gate_layer": "hard_sigmoid"}],
    "ecam": [{}, {"rd_channels": 3, "act_layer": "silu", "gate_layer": "hard_sigmoid"}],
    "ceca": [{}, {"gamma": 1, "beta": 2, "gate_layer": "hard_sigmoid"}],
    "cbam": [
        {},
        {"rd_ratio": 0.25, "rd_divisor": 2, "spatial_kernel_size": 3, "mlp_bias": True},
        {"rd_channels": 3, "gate_layer": "hard_sigmoid"},
    ],
    "lcbam": [{}, {"rd_ratio": 0.25, "spatial_kernel_size": 5, "mlp_bias": True}],
}
GAINS = {
    "sigmoid": 20,
    "hard_sigmoid": 20,
    "eca": 3,
    "ecam": 1.5,
    "ceca": 3,
    "cbam": 3,
    "lcbam": 3,
    "se": 1.5,
}
"""By which factor the weights of what damps are larger; see formula.tensor."""


def timm_cases():
    """(name, variant, keywords, shape of the input)."""
    yield "full-a0", "repvgg_a0", {}, (1, 3, 64, 64)
    yield "full-a2", "repvgg_a2", {}, (1, 3, 32, 32)
    yield "full-nano", "repvgg_nano", {}, (2, 3, 32, 32)
    for short in ("a0", "a1", "a2", "b0", "b1", "b1g4", "b2", "b2g4", "b3", "b3g4", "d2se"):
        yield f"quarter-{short}", f"repvgg_{short}", QUARTER, (2, 3, 48, 40)

    def small(name, shape=PHOTO, **keywords):
        return name, "repvgg_a0", {**SMALL, **keywords}, shape

    for shape in [(4, 3, 1, 1), (3, 3, 2, 5), (1, 3, 64, 33), PHOTO]:
        yield small("input-" + "x".join(map(str, shape)), shape)
    for groups in (2, 4, 8):
        yield small(f"groups-{groups}", groups=groups)
    yield small("stem_chs-24", stem_chs=24)
    yield small("stem_stride-1", stem_stride=1)
    yield small("stem_stride-1-identity", (2, 16, 20, 17), stem_stride=1, in_chans=16)
    yield small("in_chans-1", (2, 1, 45, 37), in_chans=1)
    yield small("in_chans-4", (2, 4, 45, 37), in_chans=4)
    yield small("num_classes-0", num_classes=0)
    yield small("num_classes-1", (8, 3, 45, 37), num_classes=1)
    for stride in (8, 16, 32):
        yield small(f"output_stride-{stride}", (2, 3, 75, 51), output_stride=stride)
    deep = {"depths": (1, 2, 2, 3, 3), "widths": (16, 16, 24, 24, 32), "strides": (2, 2, 2, 2, 2)}
    yield small("output_stride-8-groups", (1, 3, 90, 77), **deep, groups=4, output_stride=8)
    flat = {"strides": (2, 1, 2, 2), "widths": (16, 24, 24, 24), "depths": (1, 2, 3, 2)}
    yield small("output_stride-8-stem_stride-1", **flat, stem_stride=1, output_stride=8)
    yield small("output_stride-16-strides", strides=(2, 2, 2, 1), output_stride=16)
    yield small("depths-two-stages", depths=(1, 5), widths=(24, 8), strides=(1, 2), groups=2)
    yield small("strides-1", (2, 3, 11, 14), strides=(1, 1, 1, 1))
    yield small("strides-1221", strides=(1, 2, 2, 1))
    yield small("widths-same", widths=(16, 16, 16, 16), strides=(1, 2, 1, 2))
    for factor in (0.3, 0.5, 1.7):
        yield small(f"width_factor-{factor}", width_factor=factor)
    for eps in (1e-3, 0.05):
        yield small(f"bn_eps-{eps:g}", bn_eps=eps)
    for pool in ("avg", "max", "avgmax", "catavgmax"):
        yield small(f"global_pool-{pool}", global_pool=pool)
    yield small("global_pool-none", global_pool="", num_classes=0)
    for act in ACTS:
        yield small(f"act_layer-{act}", act_layer=act)
    for attention, options in ATTENTIONS.items():
        for number, kwargs in enumerate(options):
            name = f"attn_layer-{attention}" + (f"-{'-'.join(kwargs)}" if number else "")
            yield small(name, attn_layer=attention, attn_kwargs=kwargs)
    yield small("attn_layer-se-dilated", attn_layer="se", groups=2, output_stride=8, in_chans=3)


FEATURES = {
    "all": (0, 1, 2, 3, 4),
    "one-three": (1, 3),
    "last": (-1,),
    "unordered": (4, 0, 2),
    "the-last-two": 2,
    "the-stem": (0,),
}
DEPLOY_FILES = {"deploy-file": {}, "deploy-file-attn": {"attn_layer": "se", "groups": 4}}


def timm_case(name, variant, keywords, shape):
    """Return the golden of one network of timm's, from train-form weights."""
    whole = timm_peer.network(variant, **keywords)
    kind = keywords.get("attn_layer") or keywords.get("act_layer")
    gain = GAINS.get(kind, 0.75)
    weights = formula.tensors(timm_peer.shapes(whole), gain)

    def answer(dtype, deploy):
        model = timm_peer.load(timm_peer.network(variant, **keywords), weights, dtype)
        return timm_peer.answers(timm_peer.deployed(model) if deploy else model, x)

    x = formula.images(shape)
    case = {"name": name, "peer": "timm", "model": variant, "keywords": keywords, "input": shape}
    case |= {"feature_info": timm_peer.feature_info(whole), "gain": gain}
    return case, timm_peer.shapes(whole), answer


def feature_case(name, out_indices):
    """Return the golden of a features_only network."""
    keywords = {**SMALL, "groups": 2}
    weights = formula.tensors(timm_peer.shapes(timm_peer.network("repvgg_a0", **keywords)))

    def make(dtype):
        return timm_peer.feature_network(weights, dtype, "repvgg_a0", out_indices, **keywords)

    def answer(dtype, deploy):
        model = make(dtype)
        return timm_peer.feature_answers(timm_peer.deployed(model) if deploy else model, x)

    x = formula.images(PHOTO)
    case = {"name": f"features-{name}", "peer": "timm", "model": "repvgg_a0", "keywords": keywords}
    case |= {"input": PHOTO, "out_indices": out_indices}
    case |= {"feature_info": timm_peer.feature_info(make(torch.float32))}
    return case, {n: a.shape for n, a in weights.items()}, answer


def deploy_file_case(name, keywords):
    """Return the golden of a network whose weights are given in deploy form: nothing is left to
    fold.
    """
    keywords = {**SMALL, **keywords}
    train = timm_peer.network("repvgg_a0", **keywords)
    train = timm_peer.load(train, formula.tensors(timm_peer.shapes(train)), torch.float32)
    shapes = timm_peer.shapes(timm_peer.deployed(train))
    weights = formula.tensors(shapes)

    def answer(dtype, deploy):
        return timm_peer.answers(timm_peer.load(timm_peer.deployed(train), weights, dtype), x)

    x = formula.images(PHOTO)
    case = {"name": name, "peer": "timm", "model": "repvgg_a0", "keywords": keywords}
    return {**case, "input": PHOTO, "file": "deploy"}, shapes, answer


def original_case(original, theirs, scale):
    """Return the golden of one of the original's networks, with the original's names."""
    size = {"scale": scale, "num_classes": 50}
    train = original_peer.network(original, theirs, **size)
    keywords = original_peer.keywords(train)
    shapes = timm_peer.shapes(train)
    weights = formula.tensors(shapes)

    def answer(dtype, deploy):
        model = timm_peer.load(original_peer.network(original, theirs, **size), weights, dtype)
        return original_peer.answers(
            original_peer.deployed(original, model) if deploy else model, x
        )

    shape = (2, 3, 40, 40)  # square: the original's squeeze pools over a W×W window
    x = formula.images(shape)
    case = {"name": f"original-{theirs}", "peer": "original", "model": theirs}
    return {**case, "keywords": keywords, "input": shape}, shapes, answer


def golden(case, answer):
    """Add the tensors' shapes, scales and PyTorch's errors to a case; give the fingerprints."""
    truth = answer(torch.float64, False)
    folded = judge.errors(answer(torch.float64, True), truth)
    train = judge.errors(answer(torch.float32, False), truth)
    deploy = judge.errors(answer(torch.float32, True), truth)
    case["tensors"] = {}
    for name, y in truth.items():
        scale = float(abs(y).max())
        assert np.isfinite(y).all()
        assert folded[name] <= 1e-13 * scale, (case["name"], name, folded[name], scale)
        error = {"train": train[name], "deploy": deploy[name]}
        # A network that amplifies roundings a hundredfold judges nobody: its errors are one draw.
        assert max(error.values()) <= 64 * judge.U * scale, (case["name"], name, error, scale)
        if len(y) > 1:  # the images are told apart
            assert abs(y[0] - y[1]).max() > 1e-3 * scale, (case["name"], name)
        case["tensors"][name] = {"shape": y.shape, "max": scale, "float32_error": error}
    return np.concatenate([formula.fingerprint(y) for y in truth.values()])


def full_width(original):
    """Parameters and tensor shapes of every variant at full width, in both forms and namings."""
    peers = [("timm", name) for name in (*timm.list_models("repvgg*"), *timm_peer.OWN)]
    peers += [("original", n) for n in (*original.repvgg.func_dict, original_peer.PLUS)]
    for peer, name in peers:
        model = timm_peer.network(name) if peer == "timm" else original_peer.network(original, name)
        aux = sum(p.numel() for n, p in model.named_parameters() if "_aux." in n)
        row = {"peer": peer, "model": name, "parameters": {}}
        forms = {"train": timm_peer.shapes(model)}
        row["parameters"]["train"] = timm_peer.parameters(model) - aux
        with torch.device("meta"):
            folded = (
                timm_peer.deployed(model)
                if peer == "timm"
                else original_peer.deployed(original, model)
            )
        row["parameters"]["deploy"] = timm_peer.parameters(folded)
        forms["deploy"] = timm_peer.shapes(folded)
        yield row, forms


class Manifests:
    """Lists of tensor shapes, each kept once: a key for every distinct list."""

    def __init__(self):
        self.texts = {}

    def key(self, shapes):
        """Return the key of a list of shapes."""
        text = "\n".join(f"{n} {','.join(map(str, s))}" for n, s in shapes.items())
        return self.texts.setdefault(text, f"shapes{len(self.texts)}")

    def arrays(self):
        """Key → the text's bytes."""
        return {k: np.frombuffer(t.encode(), np.uint8) for t, k in self.texts.items()}


def main():
    """Write both files."""
    torch.set_num_threads(1)
    original = original_peer.published()
    if original is None:
        sys.exit(f"set {original_peer.VARIABLE} to a checkout of DingXiaoH/RepVGG")
    made = [timm_case(*case) for case in timm_cases()]
    made += [feature_case(*case) for case in FEATURES.items()]
    made += [deploy_file_case(*case) for case in DEPLOY_FILES.items()]
    for theirs in ("RepVGG-A0", "RepVGG-B1g2", "RepVGG-B2g2", "RepVGG-B3g2", "RepVGG-B3g4"):
        made.append(original_case(original, theirs, 0.25))
    for theirs in ("RepVGG-D2se", original_peer.PLUS):
        made.append(original_case(original, theirs, 0.2))

    manifests, arrays, cases = Manifests(), {}, []
    for case, shapes, answer in made:
        case.setdefault("gain", 0.75)
        case["weights"] = manifests.key(shapes)
        arrays[case["name"]] = golden(case, answer)
        cases.append(case)
    variants = [
        {**row, "weights": {form: manifests.key(shapes) for form, shapes in forms.items()}}
        for row, forms in full_width(original)
    ]
    assert len(arrays) == len(cases)  # no name twice
    document = {
        "made_with": {m.__name__: m.__version__ for m in (timm, torch, np)},
        "formula": float(formula.tensor("stem.conv_kxk.conv.weight", (48, 3, 3, 3))[47, 2, 2, 2]),
        "cases": cases,
        "variants": variants,
    }
    (GOLDEN / "networks.json").write_text(pretty(document), encoding="utf-8")
    np.savez_compressed(GOLDEN / "networks.npz", **arrays, **manifests.arrays())
    print(f"{len(cases)} cases, {len(manifests.texts)} lists of shapes, {document['made_with']}")


def pretty(document):
    """JSON with one case, or one variant, a line."""
    lists = {k: v for k, v in document.items() if isinstance(v, list)}
    head = {k: v for k, v in document.items() if k not in lists}
    parts = [json.dumps(head)[1:-1]]
    for key, rows in lists.items():
        parts.append(f'"{key}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]")
    return "{" + ",\n".join(parts) + "}\n"


if __name__ == "__main__":
    main()
