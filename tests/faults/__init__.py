"""A storm of faults over the real service, and what must hold when it has passed. `python -m tests.faults` runs it."""
