"""One training run: base policy, trainer, worker processes, checkpoints, records."""
