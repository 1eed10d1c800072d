"""Data sources: registry.yaml lists them; this package fetches, verifies, unpacks and lays out their files."""

from alpro.data.sources.fetch import fetch, show
from alpro.data.sources.media import fetch_media, has_media

__all__ = ["fetch", "fetch_media", "has_media", "show"]
