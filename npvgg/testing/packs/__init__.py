"""The conformance pack: a folder that holds all that somebody's own implementation is tested with.

`manifest` is what a pack says of itself, `pack` reads, checks and writes one, `conformance` makes
one from a name, weights and an image. The folder may import `trace`, `seeded`, `steady`, `tiny` and
`bounds`, and whatever lies below `testing`. What must not be broken: every byte of a pack from a
seed is the same on every machine; its truth and bounds owe nothing to an engine of npvgg's; what is
read is checked as a stranger's; and a reader needs nothing but the folder and its README.
"""
