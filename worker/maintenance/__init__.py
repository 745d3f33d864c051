"""What every worker does for the service: housekeeping, garbage collection, recovery."""
