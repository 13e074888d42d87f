"""Tiny policies of the synthetic worlds, R seeds side by side: networks, tasks, warm start, evaluation."""
