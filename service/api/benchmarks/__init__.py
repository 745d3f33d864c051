"""Benchmarks: import from the official repository, prompts, and scores of result files."""
