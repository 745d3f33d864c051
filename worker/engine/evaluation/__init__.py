"""Evaluations: sampling of images for a benchmark's prompts, and their judgment by a judge."""
