"""Sampling engines: their interface, their choice, and how each is started."""
