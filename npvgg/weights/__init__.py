"""Named arrays → a network, all or nothing; timm's names ↔ the original's."""
