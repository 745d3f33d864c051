"""Scores: reward values of uploaded or generated images."""
