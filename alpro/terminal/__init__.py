"""alpro/terminal."""
