"""The Python client: what the CLI, the demo and the tests speak to the service with.

with Client("http://127.0.0.1:8000") as client:
    run = client.create_run({"preset": "shapes", "training": {"max_steps": 10}})
    run = client.wait_for_run(run.id)
    print(run.heldout)
"""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter

from service.catalog.schemas import CatalogView
from service.checkpoints.schemas import CheckpointSummary, CheckpointView
from service.contracts.plan import Plan
from service.contracts.status import TERMINAL
from service.curves.schemas import Curves
from service.generations.schemas import GenerationView
from service.logs.schemas import LogPart
from service.pages import Page
from service.rewards.schemas import RewardGroupView
from service.runs.schemas import RunSummary, RunView
from service.samples.schemas import SampleView

Id = uuid.UUID | str
Model = TypeVar("Model", bound=BaseModel)
Query = Mapping[str, str | int | float | Sequence[str] | None]

DEFAULT_URL = "http://127.0.0.1:8000"
_LONGEST_WAIT = 50
"""Seconds that one request waits for a generation; below the timeouts of usual proxies."""


class ApiError(Exception):
    """The service refused a request, or did not answer. `str` is its explanation; `code` is a name to branch on."""

    def __init__(
        self, detail: str, *, status: int | None = None, code: str = "unreachable", request_id: str = ""
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.request_id = status, code, request_id


class Client:
    """A connection to the service at `url`. Every method raises ApiError."""

    def __init__(self, url: str = DEFAULT_URL, timeout: float = 60.0) -> None:
        self.url = url
        local = httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")
        # A proxy from the environment cannot reach this machine's own address.
        self._http = httpx.Client(base_url=url, timeout=timeout, trust_env=not local)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up the connection."""
        self._http.close()

    # Runs

    def create_run(self, spec: Mapping[str, Any]) -> RunView:
        """Start an alignment run; `spec` is the body of `POST /runs`."""
        return self._read(RunView, "POST", "/runs", json=dict(spec))

    def run(self, id: Id) -> RunView:
        """A run in full."""
        return self._read(RunView, "GET", f"/runs/{id}")

    def runs(
        self,
        *,
        status: Sequence[str] = (),
        model: str | None = None,
        algorithm: str | None = None,
        label: Sequence[str] = (),
    ) -> Iterator[RunSummary]:
        """All runs that fit, newest first, fetched page by page."""
        query: Query = {"status": status, "model": model, "algorithm": algorithm, "label": label}
        return self._pages(RunSummary, "/runs", query)

    def cancel(self, id: Id) -> RunView:
        """Ask for a run's end."""
        return self._read(RunView, "POST", f"/runs/{id}/cancel")

    def wait_for_run(
        self, id: Id, timeout: float | None = None, every: float = 1.0, seen: Callable[[RunView], None] = lambda _: None
    ) -> RunView:
        """The run once it has ended; it is asked for `every` so many seconds, and `seen` gets each answer.

        Raises TimeoutError.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            run = self.run(id)
            seen(run)
            if run.status in TERMINAL:
                return run
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"run {id} is {run.status} after {timeout:g} s")
            time.sleep(every)

    def curves(
        self,
        id: Id,
        metrics: Sequence[str] = (),
        *,
        since_step: int | None = None,
        max_points: int | None = None,
        smooth: float | None = None,
    ) -> Curves:
        """A run's metrics over its steps; a name may end in `*`."""
        return self._read(Curves, "GET", f"/runs/{id}/curves", _curve_query(metrics, since_step, max_points, smooth))

    def curves_as(
        self, id: Id, media_type: Literal["text/csv", "image/png", "image/svg+xml"], metrics: Sequence[str] = ()
    ) -> bytes:
        """A run's curves as a table or a figure."""
        query = _curve_query(metrics)
        return self._send("GET", f"/runs/{id}/curves", query, headers={"Accept": media_type}).content

    def rewards(
        self, id: Id, *, step: int | None = None, reward: str | None = None, granularity: int | None = None
    ) -> Iterator[RewardGroupView]:
        """A run's reward groups, fetched page by page."""
        query: Query = {"step": step, "reward": reward, "granularity": granularity}
        return self._pages(RewardGroupView, f"/runs/{id}/rewards", query)

    def samples(self, id: Id, *, kind: str | None = None, step: int | None = None) -> Iterator[SampleView]:
        """A run's sample pictures, fetched page by page; `picture(sample.image)` is the PNG."""
        return self._pages(SampleView, f"/runs/{id}/samples", {"kind": kind, "step": step})

    def logs(self, id: Id, *, attempt: int | None = None, offset: int = 0) -> LogPart:
        """A part of what the run's process printed; ask again from its `next_offset`."""
        return self._read(LogPart, "GET", f"/runs/{id}/logs", {"attempt": attempt, "offset": offset})

    # Checkpoints

    def checkpoints(self, run: Id) -> Iterator[CheckpointSummary]:
        """A run's checkpoints, newest step first, fetched page by page."""
        return self._pages(CheckpointSummary, f"/runs/{run}/checkpoints", {})

    def checkpoint(self, id: Id) -> CheckpointView:
        """A checkpoint with its files."""
        return self._read(CheckpointView, "GET", f"/checkpoints/{id}")

    def download(self, checkpoint: Id, directory: Path) -> list[Path]:
        """Save all files of a checkpoint in `directory`."""
        saved = []
        for file in self.checkpoint(checkpoint).files:
            place = directory / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            with self._http.stream("GET", file.url) as response, place.open("wb") as writing:
                if response.is_error:
                    response.read()
                    raise _error(response)
                for block in response.iter_bytes():
                    writing.write(block)
            saved.append(place)
        return saved

    # Generations

    def generate(self, spec: Mapping[str, Any], wait: float | None = None) -> GenerationView:
        """Draw pictures; `spec` is the body of `POST /generate`. With `wait`, up to so many seconds for the end."""
        begun = time.monotonic()
        first = min(wait or 0, _LONGEST_WAIT)
        headers = {"Prefer": f"wait={first:.0f}"} if first else {}
        generation = self._read(GenerationView, "POST", "/generate", json=dict(spec), headers=headers)
        while wait is not None and generation.status not in TERMINAL and time.monotonic() - begun < wait:
            time.sleep(0.5)
            generation = self.generation(generation.id)
        return generation

    def generation(self, id: Id) -> GenerationView:
        """A generation and its pictures so far."""
        return self._read(GenerationView, "GET", f"/generations/{id}")

    def cancel_generation(self, id: Id) -> GenerationView:
        """Ask for a generation's end."""
        return self._read(GenerationView, "POST", f"/generations/{id}/cancel")

    def image(self, generation: Id, number: int) -> bytes:
        """One picture, PNG."""
        return self.picture(f"/generations/{generation}/images/{number}")

    def grid(self, generation: Id) -> bytes:
        """All pictures side by side, PNG."""
        return self.picture(f"/generations/{generation}/grid.png")

    def picture(self, path: str) -> bytes:
        """The PNG at a path that an answer named."""
        return self._send("GET", path).content

    # What there is, and what it costs

    def catalog(self) -> CatalogView:
        """What a request may name."""
        return self._read(CatalogView, "GET", "/catalog")

    def plan(self, spec: Mapping[str, Any]) -> Plan:
        """What a run would cost; nothing is started."""
        return self._read(Plan, "POST", "/plans", json=dict(spec))

    def _pages(self, model: type[Model], path: str, query: Query) -> Iterator[Model]:
        cursor: str | None = None
        while True:
            page = self._read(Page[model], "GET", path, {**query, "limit": 200, "cursor": cursor})  # type: ignore[valid-type]
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def _read(self, model: type[Model], method: str, path: str, query: Query | None = None, **request: Any) -> Model:
        content = self._send(method, path, query, **request).content
        # By name too: the service fills some fields from columns of other names.
        return TypeAdapter(model).validate_json(content, by_alias=True, by_name=True)

    def _send(self, method: str, path: str, query: Query | None = None, **request: Any) -> httpx.Response:
        said = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            response = self._http.request(method, path, params=said, **request)
        except httpx.HTTPError as error:
            raise ApiError(f"{self.url} does not answer ({error}); is the service up?") from error
        if response.is_error:
            raise _error(response)
        return response


def _curve_query(
    metrics: Sequence[str], since_step: int | None = None, max_points: int | None = None, smooth: float | None = None
) -> Query:
    return {"metrics": list(metrics), "since_step": since_step, "max_points": max_points, "smooth": smooth}


def _error(response: httpx.Response) -> ApiError:
    try:
        problem = response.json()
        return ApiError(
            str(problem["detail"]),
            status=response.status_code,
            code=str(problem.get("code", "")),
            request_id=str(problem.get("request_id", "")),
        )
    except (ValueError, KeyError, TypeError):
        detail = f"status {response.status_code}: {response.text[:500]}"
        return ApiError(detail, status=response.status_code, code="unknown")
