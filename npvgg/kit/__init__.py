"""The cross-check kit: what other implementations of RepVGG hold themselves against."""
