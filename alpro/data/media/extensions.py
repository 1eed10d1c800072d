"""File extensions of videos and images."""

from __future__ import annotations

# In order of preference if one name has several files (for example a converted video beside its original).
VIDEO_EXTENSIONS = (
    ".mp4", ".avi", ".mov", ".webm", ".mkv", ".mpg", ".m4v", ".wmv", ".3gp", ".3g2", ".mts", ".m2ts",
    ".mpeg", ".ts", ".vob", ".flv", ".ogv", ".gif",
)  # fmt: skip
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
_ALL = frozenset(VIDEO_EXTENSIONS + IMAGE_EXTENSIONS)


def is_video_name(name: str) -> bool:
    """Return True if a file name has the extension of a video, in any case, or the trailing dot of some names of DiDeMo."""
    return name.lower().endswith((*VIDEO_EXTENSIONS, "."))


def bare_name(name: str) -> str:
    """Return a name without its media extension (in any case) or its trailing dot, which some names of DiDeMo have."""
    stem, dot, extension = name.rpartition(".")
    if dot and stem and (not extension or f".{extension.lower()}" in _ALL):
        return stem
    return name
