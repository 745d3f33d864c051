"""What this installation offers."""
