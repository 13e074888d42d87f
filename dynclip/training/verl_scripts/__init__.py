"""A study as launch scripts and data files for verl."""
