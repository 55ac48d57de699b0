"""Those who judge: what is right, computed or stated by other means than npvgg's.

Nothing here imports npvgg (tests/test_house.py holds that), so no fault of the package can hide in
what it is judged by. `naive` is loops in plain Python; `formula` makes weights and images from a
formula; `bounds`, `judge` and `onnxbounds` say how far from the truth a number may be; `porter` is
a port of the network as somebody might write it, `plants` the mistakes that are planted in it;
`pack_reader` reads a conformance pack from its description alone; `timm_peer`, `original_peer` and
`runtime_peer` run PyTorch's, the authors' and other runtimes' networks.
"""
