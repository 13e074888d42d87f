"""Sampling responses from a causal language model, and storing them."""
