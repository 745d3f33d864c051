"""Generations: images from one or several checkpoints."""
