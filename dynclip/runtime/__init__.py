"""Files, checkpoints, hardware, progress and provenance. All packages use it; it imports none of them."""
