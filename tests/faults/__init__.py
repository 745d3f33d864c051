"""Random faults in the real service, and checks of its invariants afterwards. `python -m tests.faults` runs it."""
