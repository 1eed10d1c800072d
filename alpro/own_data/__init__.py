"""Preparation of a folder of your own videos: its texts, splits, sizes and parameters (`alpro data init`)."""
