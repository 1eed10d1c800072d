"""Data: sources, media files, annotations, validation, texts and batches."""
