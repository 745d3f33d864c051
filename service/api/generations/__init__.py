"""Pictures on request, from one or several checkpoints."""
