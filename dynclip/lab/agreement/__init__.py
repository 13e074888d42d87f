"""How often the region rule of the paper has the sign of the exact alignment."""
