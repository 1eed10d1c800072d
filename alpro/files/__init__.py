"""alpro/files."""
