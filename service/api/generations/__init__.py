"""Generations: images generated from one or more checkpoints."""
