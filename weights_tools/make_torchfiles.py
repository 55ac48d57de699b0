"""Write tests/golden/torch-*.pth: small files as torch.save makes them, for tests without torch.

Run it under torch 2.14:  python -m weights_tools.make_torchfiles
From run to run only the identifier differs that torch puts into its zip format.
"""

from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import torch

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"


def checkpoint():
    """Return a training checkpoint; every number follows from its place, so the test can say it
    again.
    """
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 8
    state = OrderedDict()
    state["module.weight"] = torch.nn.Parameter(base)
    state["module.transposed"] = base.permute(2, 0, 1)
    state["module.sliced"] = base[1, ::2, 1:3]
    state["module.half"] = base[0].half()
    state["module.bfloat16"] = base[0].bfloat16()
    state["module.double"] = base[0].double()
    state["module.bool"] = base[0] > 0.5
    state["module.uint16"] = torch.arange(3).to(torch.uint16)
    state["module.empty"] = torch.empty(0, 3)
    state["module.num_batches_tracked"] = torch.tensor(7)
    state._metadata = OrderedDict({"": {"version": 1}})
    return {"state_dict": state, "epoch": 3, "args": Namespace(lr=0.1)}


if __name__ == "__main__":
    for name, new in (("zip", True), ("stream", False)):
        path = GOLDEN / f"torch-{name}.pth"
        torch.save(checkpoint(), path, _use_new_zipfile_serialization=new)
        print(path.name, path.stat().st_size, "bytes")
