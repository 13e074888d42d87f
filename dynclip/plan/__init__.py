"""What a run would take: time, memory, disk; and what this machine has."""
