"""`shapes-bench`: the benchmark for the bundled world, with captions, images, test points and a judge.

Its ten dimensions are those of UniGenBench++, but the scores of the two benchmarks are not comparable.
"""

from worker.shapes.bench.judge import judge_points

__all__ = ["judge_points"]
