"""A checkpoint as a service: a table of videos and texts in, scores or answers out."""
