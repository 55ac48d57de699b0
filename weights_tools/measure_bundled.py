"""Measure the network that ships in the package, by npvgg's own preprocessing and engines.

    python -m weights_tools.measure_bundled --data cifar10.zip

Counts the test images whose class comes first, in train form and in deploy form and with every
engine, and how often their predictions differ. Needs neither PyTorch nor timm.
"""

from __future__ import annotations

import argparse
import hashlib
import zipfile
from pathlib import Path

import numpy as np

import npvgg
from npvgg.engines import ENGINES
from npvgg.hub.locate import locate
from npvgg.hub.pretrained import BUNDLED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="zip archive of the images")
    args = parser.parse_args()

    deploy = npvgg.create_model(BUNDLED, pretrained=True)
    cfg = npvgg.data.resolve_model_data_config(deploy)
    transform = npvgg.data.create_transform(**cfg, is_training=False)
    names = deploy.pretrained_cfg["label_names"]
    images, classes = [], []
    with zipfile.ZipFile(args.data) as archive:
        for entry in sorted(archive.namelist()):
            folders = entry.split("/")
            if len(folders) >= 3 and folders[-3] == "test" and folders[-1]:
                images.append(transform(archive.read(entry)))
                classes.append(names.index(folders[-2]))
    x, y = np.stack(images), np.array(classes)

    path = locate(BUNDLED)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"{path.name}: {path.stat().st_size:,} bytes, sha256 {digest}")
    first: np.ndarray | None = None
    for form in ("train", "deploy"):
        for engine in ENGINES:
            model = npvgg.create_model(
                BUNDLED, pretrained=True, engine=engine, reparameterize=form == "deploy"
            )
            parts = [model(x[i : i + 250]).argmax(1) for i in range(0, len(x), 250)]
            predicted = np.concatenate(parts)
            first = predicted if first is None else first
            print(
                f"{form} form, {engine} engine: {np.mean(predicted == y):.2%} of {len(y):,} test "
                f"images; {np.sum(predicted != first)} predictions differ from the first line's",
                flush=True,
            )


if __name__ == "__main__":
    main()
