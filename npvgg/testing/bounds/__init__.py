"""How far from the truth a correct float32 implementation may be."""
