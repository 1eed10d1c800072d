"""Estimates of the work, memory and disk of the trainings before they start (`alpro plan`)."""
