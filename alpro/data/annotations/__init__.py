"""alpro/data/annotations."""
