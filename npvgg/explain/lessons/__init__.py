"""The lessons: one module and one function each, from a network to a `Lesson`.

A module computes its numbers first and shows them afterwards. It may use everything but the command
line; it must run with the core packages alone, and change nothing in the model that it is given.
"""
