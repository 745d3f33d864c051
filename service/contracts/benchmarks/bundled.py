"""The benchmark `shapes-bench` of the bundled world, which ships with the service."""

from functools import cache
from pathlib import Path

from service.contracts.benchmarks.data import Benchmark

BUNDLED = "shapes-bench"
"""Name of the only benchmark that the judge `perception` supports."""
FILE = Path(__file__).with_name("shapes_bench.json")
"""Written by `python -m worker.shapes.bench --out FILE`."""


@cache
def bundled() -> Benchmark:
    """The benchmark `shapes-bench`, without a judge's prompt: rules judge its images."""
    return Benchmark.model_validate_json(FILE.read_text(encoding="utf-8"))


@cache
def bundled_sha256() -> str:
    """SHA-256 of its content, cached since the content is a megabyte."""
    return bundled().content_sha256
