"""How far from the truth a correct float32 implementation may be, element by element.

`rounding` has the two rules by which roundings add up, `walk` follows them through a network,
`gates` through activations and attention layers, `tiles` through Winograd's algorithms; `shares`
says when a tensor is within its bound, for all who judge. The folder may import `trace` and
`steady`, and whatever lies below `testing`. What must not be broken: every bound is derived, none
is tuned until something passes; whatever computes correctly in float32, in any order, is within.
"""
