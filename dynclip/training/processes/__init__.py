"""The worker processes of one training: start and recovery."""
