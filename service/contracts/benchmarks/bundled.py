"""The benchmark that ships with the service: `shapes-bench`, of the bundled world."""

from functools import cache
from pathlib import Path

from service.contracts.benchmarks.data import Benchmark

BUNDLED = "shapes-bench"
"""Its name: the one benchmark whose images the judge `perception` can read."""
FILE = Path(__file__).with_name("shapes_bench.json")
"""Made by `python -m worker.shapes.bench --out FILE`."""


@cache
def bundled() -> Benchmark:
    """The benchmark `shapes-bench`, with null for a judge's words: rules judge its images."""
    return Benchmark.model_validate_json(FILE.read_text(encoding="utf-8"))


@cache
def bundled_sha256() -> str:
    """Of its content, which is a megabyte to hash."""
    return bundled().content_sha256
