"""PyTorch's files, read and written without PyTorch, nothing in them run.

`pickled` reads a pickle's opcodes into the inert `records`, `tensor` proves that each tensor lies
in its storage, `reader` finds the set of weights among them, `writer` makes a file that
torch.load(weights_only=True) opens. What must not be broken: nothing that a pickle names is
imported or called, and no array is made before its bounds are proved.
"""
