"""Files, checkpoints, hardware, progress, provenance: used by all packages, imports none of them."""
