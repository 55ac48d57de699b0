"""Write timm's answers for tests/test_data.py: tests/golden/preprocess.json and preprocess.npz.

Needs timm and torch; run it from the root of the repository. The photos come from a formula, so
that they are the same everywhere; the answers are hashes, and whole tensors where they are small.
"""

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import PIL
import timm
import torch
import torchvision
from PIL import Image
from timm.data import create_transform
from timm.data.loader import PrefetchLoader

GOLDEN = Path("tests/golden")
INTERPOLATIONS = ["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
CIFAR = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.247, 0.2435, 0.2616]}


def photo(height, width, channels):
    """Make a photo by formula. It is also in tests/test_data.py; the hash of each photo ties the
    two together.
    """
    y, x, c = np.mgrid[:height, :width, :channels].astype(np.int64)
    return ((y * y * 3 + x * 7 + x * y * (c + 1) + c * 85) % 256).astype(np.uint8)


def cases():
    """(photo size, arguments of create_transform), one group for each rule."""
    for mode, name in itertools.product(["center", "squash", "border"], INTERPOLATIONS):
        yield (61, 94), {"input_size": [3, 48, 48], "crop_mode": mode, "interpolation": name}
        yield (94, 61), {"input_size": [3, 40, 56], "crop_mode": mode, "interpolation": name}
    for size in [(1, 1), (1, 3), (2, 1), (5, 4), (256, 256), (256, 289), (291, 256), (480, 640)]:
        yield size, {"input_size": [3, 224, 224]}  # RepVGG's own; odd margins 33 and 35
    for pct in [0.875, 0.9, 0.95, 1.0, 0.5, 1.25]:  # the last two: much cropped, padded
        for mode in ["center", "squash", "border"]:
            yield (37, 52), {"input_size": [3, 33, 33], "crop_pct": pct, "crop_mode": mode}
    yield (300, 200), {"input_size": [3, 320, 320], "crop_pct": 1.0}  # RepVGG-D2se
    yield (32, 32), {"input_size": [3, 32, 32], "crop_pct": 1.0, **CIFAR}
    yield (20, 50), {"input_size": [3, 30, 30], "crop_mode": "border", **CIFAR}
    yield (45, 31), {"input_size": [1, 28, 28], "mean": [0.45], "std": [0.22]}
    yield (
        (31, 45),
        {"input_size": [1, 28, 20], "mean": [0.45], "std": [0.22], "crop_mode": "border"},
    )
    for statistics in [{}, CIFAR]:
        yield (61, 94), {"input_size": [3, 48, 48], "normalize": "prefetcher", **statistics}
    for mode in ["center", "squash", "border"]:  # these are stored whole
        yield (6, 9), {"input_size": [3, 7, 5], "crop_mode": mode}
    yield (4, 3), {"input_size": [3, 5, 5], "crop_pct": 1.25, "normalize": "prefetcher"}


def answer(image, config):
    """Timm's tensor: through ToTensor and Normalize, or through its prefetching loader."""
    config = dict(config)
    if config.pop("normalize", "totensor") == "totensor":
        return create_transform(**config)(image).numpy()
    pixels = create_transform(**config, use_prefetcher=True)(image)
    statistics = {key: config[key] for key in ("mean", "std") if key in config}
    loader = PrefetchLoader(
        [(pixels[None], torch.zeros(1))], **statistics, device=torch.device("cpu")
    )
    ((batch, _),) = loader
    return batch[0].numpy()


def sha256(array):
    """Hash of the little-endian bytes."""
    little = array.astype(array.dtype.newbyteorder("<"))
    return hashlib.sha256(np.ascontiguousarray(little).tobytes()).hexdigest()


def main():
    """Write both files."""
    rows, tensors = [], {}
    for number, ((height, width), config) in enumerate(cases()):
        pixels = photo(height, width, config["input_size"][0])
        image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
        want = answer(image, config)
        rows.append(
            {
                "photo": [height, width],
                "photo_sha256": sha256(pixels),
                "config": config,
                "shape": list(want.shape),
                "sha256": sha256(want),
            }
        )
        if want.size <= 3 * 7 * 5:
            tensors[f"case{number}"] = want
    made_with = {
        module.__name__: module.__version__ for module in (timm, torch, torchvision, PIL, np)
    }
    text = ",\n".join(json.dumps(row) for row in rows)
    document = f'{{"made_with": {json.dumps(made_with)},\n"cases": [\n{text}\n]}}\n'
    (GOLDEN / "preprocess.json").write_text(document, encoding="utf-8")
    np.savez_compressed(GOLDEN / "preprocess.npz", **tensors)
    print(f"{len(rows)} cases, {len(tensors)} whole tensors, made with {made_with}")


if __name__ == "__main__":
    main()
