"""Evaluation of checkpoints: retrieval and question answering, their metrics, intervals, comparisons and records."""
