"""`shapes-bench`: the bundled world's own benchmark. Its captions, images, test points, and the judge that sees them.

Its ten dimensions are those of UniGenBench++, but it is another benchmark: nothing of it can be compared with that one.
"""

from worker.shapes.bench.judge import judge_points

__all__ = ["judge_points"]
