"""Scores: rewards of uploaded or generated images."""
