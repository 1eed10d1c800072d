"""Text search in a folder of videos: an index of encoded videos, and queries that VTC answers first and VTM re-ranks."""
