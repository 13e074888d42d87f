"""Intervals, paired tests, resampling, and what a design can detect."""
