"""What was done, by replaying the mistakes that people make until one gives their numbers.

`recipe` has a block's operations with the places where a mistake can be made, `mistake` what a
mistake is, the `mistaken_…` modules and `mistakes` the catalogue, `hypotheses` what is tried on a
tensor, and `diagnose` judges. The folder may import `packs`, `bounds`, `trace`, and whatever lies
below `testing`. What must not be broken: a mistake is named only where its replay gives their
numbers up to rounding, and accidents are excluded by counting; else the answer is "unknown".
"""
