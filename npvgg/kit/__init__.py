"""The cross-check kit: what another implementation of RepVGG is held against.

    trace                     a network as a list of operations, and every tensor that they make
    steady, seeded, tiny      arithmetic, weights and networks with the same bits everywhere
    rounding, gates, tiles    how errors grow, and pass through a layer
    bounds                    how far from the truth a correct float32 implementation may be
    manifest, pack            the folder that holds all of it
    conformance               from a name, weights and an image to that folder
    mistakes                  what people do wrong, one small function each, on a block as data
    diagnosis                 which of the mistakes makes the numbers that they have
    candidates, runners       their numbers, from files or from a run
    match, measure, compare   which of them is which, and how far it is off
    report, pictures, html    what was found

`npvgg.testing` is the door.
"""
