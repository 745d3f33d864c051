"""Evaluations: sampling images for a benchmark's prompts and having a judge assess them."""
