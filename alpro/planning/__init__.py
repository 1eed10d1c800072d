"""alpro/planning."""
