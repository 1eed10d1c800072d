"""Checkpoints: files, parameter names, loading into models, starts of trainings, and conversion."""
