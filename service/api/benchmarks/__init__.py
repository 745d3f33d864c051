"""Benchmarks: importing them from the official repository, showing their prompts, and scoring result files."""
