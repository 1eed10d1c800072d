"""Text search in a folder of videos: VTC searches an index of encoded videos, and VTM re-ranks the best matches."""
