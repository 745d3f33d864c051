"""Images on request, from one or several checkpoints."""
