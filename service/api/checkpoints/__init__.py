"""Checkpoints: import, list, show, download, delete."""
