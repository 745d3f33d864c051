"""`shapes-bench`: the benchmark of the bundled world, with captions, images, test points and a judge.

Its ten dimensions are those of UniGenBench++, but the benchmarks and their scores are not comparable.
"""

from worker.shapes.bench.judge import judge_points

__all__ = ["judge_points"]
