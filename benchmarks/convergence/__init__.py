"""Comparison of the systems of the paper on the bundled world: `python -m benchmarks.convergence`."""
