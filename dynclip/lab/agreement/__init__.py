"""How often the paper's region rule has the sign of the exact alignment."""
