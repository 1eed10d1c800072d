"""alpro/launch."""
