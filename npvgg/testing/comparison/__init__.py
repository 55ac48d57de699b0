"""A candidate held against a pack: its numbers read or computed, matched, measured and reported.

`candidates` reads files, `runners` and `factories` run networks, `match` finds out which array is
which, `measure` says how far one is off, `compare` does it all, `report`, `html` and `pictures`
show it. The folder may import `packs`, `bounds` and `diagnosis`; torch, onnx, onnxruntime and
Pillow only inside the functions that need them. What must not be broken: a right candidate is never
called wrong; nothing to compare is an error, never a success; a file of theirs is never run.
"""
