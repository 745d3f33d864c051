"""Benchmarks: importing a checkout of the official repository, showing what came of it, scoring result files again."""
