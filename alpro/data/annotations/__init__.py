"""Annotations: tables and official layouts, read into one typed record per video."""
