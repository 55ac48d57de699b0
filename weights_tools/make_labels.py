"""Write npvgg/assets/imagenet_1k.tsv (index, synset, words) from the lists of an installed timm.

python -m weights_tools.make_labels
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

TARGET = Path(__file__).parents[1] / "npvgg" / "assets" / "imagenet_1k.tsv"


def main() -> None:
    source = files("timm.data") / "_info"
    synsets = (source / "imagenet_synsets.txt").read_text("utf-8").split()
    lines = (source / "imagenet_synset_to_lemma.txt").read_text("utf-8").splitlines()
    words = dict(line.split("\t", 1) for line in lines)
    rows = [f"{i}\t{synset}\t{words[synset]}\n" for i, synset in enumerate(synsets)]
    TARGET.write_text("".join(rows), "utf-8", newline="\n")
    print(f"{TARGET.name}: {len(rows)} classes")


if __name__ == "__main__":
    main()
