"""A checkpoint as a service: a table of videos and texts in, scores or answers out; or one video with a question or texts."""

from alpro.serving.single import Answer, Match, ask, load, match

__all__ = ["Answer", "Match", "ask", "load", "match"]
