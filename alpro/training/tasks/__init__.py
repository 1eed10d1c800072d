"""alpro/training/tasks."""
