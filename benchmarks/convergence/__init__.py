"""The systems of the paper side by side on the bundled world: `python -m benchmarks.convergence`."""
