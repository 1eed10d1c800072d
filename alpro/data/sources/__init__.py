"""Where the data come from: registry.yaml, and how its files are fetched, checked, unpacked and laid out."""

from alpro.data.sources.fetch import fetch, show
from alpro.data.sources.media import fetch_media, has_media

__all__ = ["fetch", "fetch_media", "has_media", "show"]
