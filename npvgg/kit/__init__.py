"""The cross-check kit: what another implementation of RepVGG is held against.

    trace      a network as a list of operations, and every tensor that they make
    steady     float64 arithmetic whose bits are the same on every machine
    bounds     how far from the truth a correct float32 implementation may be, element by element
    seeded     weights and noise from a seed, by integers
    pack       the folder that holds all of it
    mistakes   what people do wrong, one small function each, on a block as data (recipe)
    diagnosis  which of the mistakes makes the numbers that they have
    compare    their numbers, from wherever they come, held against all that
    report     what was found, in text and JSON; html with pictures

`npvgg.testing` is the door.
"""
