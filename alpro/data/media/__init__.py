"""Media files: frame selection, decoding, probing, conversion and shards."""
