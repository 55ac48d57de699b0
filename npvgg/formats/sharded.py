"""One set of weights in several files, joined by an index.

    model.safetensors.index.json = {"weight_map": {name: file}, "metadata": {…}}

The files lie beside the index; their names are names, not paths. Every tensor is where the map says
it is, and no file holds one that the map leaves out.

Source: huggingface_hub `split_torch_state_dict_into_shards`; transformers writes the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from npvgg.errors import WeightsError
from npvgg.formats.jsontext import parse_object
from npvgg.formats.safetensorsfile import MAX_TENSORS
from npvgg.formats.untrusted import shown

MAX_INDEX = 4 * 2**20
MAX_SHARDS = 100


def recognised(head: bytes) -> bool:
    """Whether a file that begins so is JSON; the length of a safetensors header never is."""
    return head[:1] == b"{" and any(head[3:8])


def parse(data: bytes) -> dict[str, str]:
    """Return the map of an index: name of a tensor → name of its file. Raises WeightsError."""
    places = parse_object(data, "index", MAX_INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise WeightsError("index: expected a 'weight_map' from tensors to files, got none")
    if len(places) > MAX_TENSORS or len(set(map(str, places.values()))) > MAX_SHARDS:
        raise WeightsError(f"index: expected at most {MAX_TENSORS} tensors, {MAX_SHARDS} files")
    for name, file in places.items():
        if not isinstance(file, str) or not _is_file_name(file):
            raise WeightsError(f"index: {shown(name)}: expected a file's name, got {shown(file)}")
    return places


def check(places: dict[str, str], file: str, held: Iterable[str]) -> None:
    """Raise WeightsError unless a file holds exactly the tensors that the map places there."""
    expected = {name for name, place in places.items() if place == file}
    for wrong in sorted(expected.symmetric_difference(held)):
        problem = "lacks" if wrong in expected else "holds, against the index,"
        raise WeightsError(f"index: the file {shown(file)} {problem} the tensor {shown(wrong)}")


def _is_file_name(text: str) -> bool:
    """No path, no hidden file, nothing of a drive; ASCII alone names a file alike everywhere."""
    allowed = text.replace("-", "").replace("_", "").replace(".", "").isalnum() and text.isascii()
    return allowed and not text.startswith(".") and not text.endswith(".json") and len(text) < 200
