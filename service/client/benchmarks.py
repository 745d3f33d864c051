"""Benchmarks, result files scored again, the leaderboard."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from service.api.benchmarks.schemas import BenchmarkSummary, BenchmarkView, Rescore
from service.api.leaderboard.schemas import Leaderboard
from service.client.errors import ApiError
from service.client.transport import Query, Transport, blocks
from service.contracts.benchmarks.data import BenchmarkPrompt

_MEDIA_TYPES = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".ndjson": "application/x-ndjson",
}


class Benchmarks:
    """The routes under `/benchmarks`, and `/leaderboard`."""

    _transport: Transport

    def benchmarks(self) -> Iterator[BenchmarkSummary]:
        """All benchmarks, by name, fetched page by page."""
        return self._transport.pages(BenchmarkSummary, "/benchmarks", {})

    def benchmark(
        self, name: str, dimension: Sequence[str] = (), *, limit: int | None = None, cursor: str | None = None
    ) -> BenchmarkView:
        """A benchmark with a page of its prompts, those with a test point of one of the dimensions."""
        query: Query = {"dimension": list(dimension), "limit": limit, "cursor": cursor}
        return self._transport.read(BenchmarkView, "GET", f"/benchmarks/{name}", query)

    def benchmark_prompts(self, name: str, dimension: Sequence[str] = ()) -> Iterator[BenchmarkPrompt]:
        """A benchmark's prompts by their numbers, fetched page by page."""
        cursor: str | None = None
        while True:
            page = self.benchmark(name, dimension, limit=200, cursor=cursor).prompts
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def rescore(
        self, file: Path, benchmark: str, *, points: bool = False, resamples: int | None = None, seed: int | None = None
    ) -> Rescore:
        """The scores of a result file of the official scripts: `.csv`, `.jsonl`, or `.json`. Nothing is stored."""
        media_type = _MEDIA_TYPES.get(file.suffix.lower())
        if media_type is None:
            raise ApiError(f"{file.name} must end in one of {', '.join(_MEDIA_TYPES)}", code="unknown_suffix")
        query: Query = {"points": str(points).lower(), "resamples": resamples, "seed": seed}
        headers = {"Content-Type": media_type, "Content-Length": str(file.stat().st_size)}
        path = f"/benchmarks/{benchmark}/rescore"
        return self._transport.read(Rescore, "POST", path, query, headers=headers, body=lambda: blocks(file))

    def leaderboard(self, benchmark: str | None = None) -> Leaderboard:
        """The rankings on a benchmark; unset: UniGenBench++'s short English prompts."""
        return self._transport.read(Leaderboard, "GET", "/leaderboard", {"benchmark": benchmark})

    def leaderboard_as(
        self, media_type: Literal["text/csv", "text/markdown", "image/png"], benchmark: str | None = None
    ) -> bytes:
        """The rankings as a table or a figure."""
        headers = {"Accept": media_type}
        return self._transport.send("GET", "/leaderboard", {"benchmark": benchmark}, headers=headers).content
