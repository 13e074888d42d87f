"""A training through TRL: its configuration, the trainer of one process, and the metrics it records."""
