"""Maintenance tasks of every worker: housekeeping, garbage collection and recovery."""
