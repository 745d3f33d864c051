"""Evaluations of models on benchmarks, and their results."""
