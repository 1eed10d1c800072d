"""Inference with a checkpoint, on a table of videos and texts or on a single video."""

from alpro.serving.single_video import Answer, Match, ask, load, match

__all__ = ["Answer", "Match", "ask", "load", "match"]
