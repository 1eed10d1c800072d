"""alpro/system."""
