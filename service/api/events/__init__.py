"""Server-sent events of runs and evaluations."""
