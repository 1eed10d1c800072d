"""ALPRO (CVPR 2022): video-and-language pre-training with entity prompts, as a project one can rerun."""

__version__ = "0.1.0"
