"""alpro/checkpoints."""
