"""alpro/data/text."""
