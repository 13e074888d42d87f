"""A policy with what language models have: contexts that do not recur, and tokens that no reward depends on."""
