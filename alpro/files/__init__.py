"""Files on disk: atomic writes, JSON, fingerprints and locks."""
