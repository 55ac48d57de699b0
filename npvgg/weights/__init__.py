"""Named arrays → a network, all or nothing.

`identity` says which network some tensors are, `build` makes it of them, `keymap` translates
between timm's names and the original's, `timmconfig` reads the config.json of a repository,
`metadata` reads and writes the `npvgg.*` keys of a file. The folder may import `formats`, `hub` and
what describes networks; not `engines` or the model. What must not be broken: a network is loaded
whole or not at all (no tensor missing, left over, misshapen, or not finite), and the question which
network it is has one answer.
"""
