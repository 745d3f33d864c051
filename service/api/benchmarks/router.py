"""Routes under `/benchmarks`: list and show benchmarks, and score result files."""

import json
import pathlib
import tempfile
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.concurrency import run_in_threadpool

from service.api.benchmarks import service
from service.api.benchmarks.schemas import (
    BenchmarkFilters,
    BenchmarkSummary,
    BenchmarkView,
    PromptFilters,
    Rescore,
    RescoreQuery,
)
from service.api.dependencies import DatabaseDep, SessionDep
from service.api.idempotency import StreamedIdempotentRequestDep
from service.api.routing import ApiRoute, declare
from service.auth.principal import Scope
from service.contracts.benchmarks.data import Benchmark
from service.http.errors import UnsupportedMediaType
from service.http.pagination import Page
from service.http.uploads import receive, while_connected

router = APIRouter(tags=["benchmarks"], route_class=ApiRoute)

BenchmarkName = Annotated[
    str, Path(description="Name of a benchmark, as in `GET /benchmarks`.", examples=["unigenbench-en"], max_length=100)
]
_ROW = {"type": "object", "description": "A row of the CSV: `index`, `testpoint`, `output`, `result_json`, `img_path`."}
_EXAMPLE = {"index": "0", "testpoint": "['Style']", "result_json": "{'score': [1]}", "img_path": "0_0.png"}
_HEADING, _LINE = ",".join(_EXAMPLE), ",".join(f'"{cell}"' for cell in _EXAMPLE.values())
_FILES = {
    media_type: {"schema": schema, "examples": {"one": {"summary": "One image", "value": example}}}
    for media_type, schema, example in (
        (service.CSV, {"type": "string"}, f"{_HEADING}\n{_LINE}\n"),
        (service.JSON, {"anyOf": [{"type": "array", "items": _ROW}, {"type": "object"}]}, [_EXAMPLE]),
        (service.LINES, {"type": "string"}, json.dumps(_EXAMPLE)),
    )
}


@router.get("/benchmarks", summary="List benchmarks")
@declare(Scope.READ)
def list_benchmarks(filters: Annotated[BenchmarkFilters, Query()], session: SessionDep) -> Page[BenchmarkSummary]:
    """List the bundled and imported benchmarks by name. Scores are comparable if `content_sha256` is equal."""
    return service.listing(session, filters)


@router.get("/benchmarks/{name}", summary="Show a benchmark")
@declare(Scope.READ)
def get_benchmark(
    name: BenchmarkName, filters: Annotated[PromptFilters, Query()], session: SessionDep
) -> BenchmarkView:
    """Return a benchmark with its judge prompt, the repairs made to its file, and a page of its prompts.

    `dimension` selects prompts. The counts always refer to the whole benchmark.
    """
    return service.show(session, name, filters)


@router.post(
    "/benchmarks/{name}/rescore",
    summary="Score a result file",
    openapi_extra={"requestBody": {"required": True, "content": _FILES}},
)
@declare(Scope.READ, max_body="max_results_bytes", reads_only=True)
async def rescore_benchmark(
    name: BenchmarkName,
    query: Annotated[RescoreQuery, Query()],
    request: Request,
    database: DatabaseDep,
    _idempotency: StreamedIdempotentRequestDep,
) -> Rescore:
    """Score a result file written by the official scripts, sent as the request body. Nothing is stored.

    The body is the CSV file, its rows as JSON lines (`.progress.jsonl`) or as a JSON list, or the JSON summary of
    counts. The scores equal the official ones; intervals are added unless the body is a summary. Unreadable answers
    are counted rather than dropped, and an answer that the official script lost is recovered from `output`. Each row
    that does not belong to the benchmark is reported as an error with its row number.
    """

    def load() -> Benchmark:
        with database.sessions() as session:
            return service.current(session, name)

    benchmark = await run_in_threadpool(load)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in service.MEDIA_TYPES:
        raise UnsupportedMediaType(
            f"Unsupported media type {media_type[:100]!r}; send {', '.join(service.MEDIA_TYPES)}"
        )
    with tempfile.TemporaryDirectory(prefix="g2rpo-rescore-") as directory:
        file = pathlib.Path(directory) / "results"
        sha256 = await receive(request.stream(), file)
        async with while_connected(request) as check:
            return await run_in_threadpool(service.rescore, benchmark, file, sha256, media_type, query, check)
