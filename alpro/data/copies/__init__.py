"""Copies of videos that decode faster."""
