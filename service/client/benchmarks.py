"""Client methods for benchmarks, for rescoring result files and for the leaderboard."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from service.api.benchmarks.schemas import BenchmarkSummary, BenchmarkView, Rescore
from service.api.leaderboard.schemas import Leaderboard
from service.client.transport import Transport, media_type
from service.contracts.benchmarks.data import BenchmarkPrompt
from service.http.pagination import every_item

_MEDIA_TYPES = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".ndjson": "application/x-ndjson",
}


class Benchmarks(Transport):
    """The routes under `/benchmarks`, and the route `/leaderboard`."""

    def benchmarks(self) -> Iterator[BenchmarkSummary]:
        """Iterate over all benchmarks, ordered by name."""
        return self._pages(BenchmarkSummary, "/benchmarks")

    def benchmark(
        self, name: str, dimension: Sequence[str] = (), *, limit: int | None = None, cursor: str | None = None
    ) -> BenchmarkView:
        """Return a benchmark with a page of its prompts, optionally only those with a test point in a `dimension`."""
        query = {"dimension": dimension, "limit": limit, "cursor": cursor}
        return self._read(BenchmarkView, "GET", f"/benchmarks/{name}", query)

    def benchmark_prompts(self, name: str, dimension: Sequence[str] = ()) -> Iterator[BenchmarkPrompt]:
        """Iterate over the prompts of a benchmark, ordered by index."""
        return every_item(lambda cursor: self.benchmark(name, dimension, limit=200, cursor=cursor).prompts)

    def rescore(
        self, file: Path, benchmark: str, *, points: bool = False, resamples: int | None = None, seed: int | None = None
    ) -> Rescore:
        """Score a `.csv`, `.jsonl` or `.json` result file written by the official scripts. Nothing is stored."""
        headers = {"Content-Type": media_type(file, _MEDIA_TYPES)}
        query = {"points": points, "resamples": resamples, "seed": seed}
        return self._read(Rescore, "POST", f"/benchmarks/{benchmark}/rescore", query, headers=headers, file=file)

    def leaderboard(self, benchmark: str | None = None) -> Leaderboard:
        """Return the rankings on a benchmark, by default the short English prompts of UniGenBench++."""
        return self._read(Leaderboard, "GET", "/leaderboard", {"benchmark": benchmark})

    def leaderboard_as(
        self, media_type: Literal["text/csv", "text/markdown", "image/png"], benchmark: str | None = None
    ) -> bytes:
        """Return the rankings on a benchmark as a table or figure."""
        return self._content("/leaderboard", media_type, {"benchmark": benchmark})
