"""alpro/data/batches."""
