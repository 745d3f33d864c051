"""Import, list, show, download and delete checkpoints."""
