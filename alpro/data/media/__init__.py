"""alpro/data/media."""
