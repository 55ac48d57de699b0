"""A photo → a tensor, equal to timm's to the last bit; and the names of its classes."""
