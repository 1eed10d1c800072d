"""alpro/checks."""
