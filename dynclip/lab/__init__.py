"""Experiments on a tabular policy, where gradients and entropies are exact."""
