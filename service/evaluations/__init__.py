"""Models judged on benchmarks."""
