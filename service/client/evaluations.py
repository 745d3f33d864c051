"""Evaluations: models judged on benchmarks."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from service.api.evaluations.schemas import EvaluationSummary, EvaluationView
from service.api.events.schemas import LAST_ID, EvaluationEnd, EvaluationProgress, RunEvent
from service.api.logs.schemas import LogPart
from service.client import events
from service.client.events import EvaluationEvent
from service.client.transport import Id, Query, Transport
from service.contracts.status import JobStatus


class Evaluations:
    """The routes under `/evaluations` that begin, follow and end them."""

    _transport: Transport

    def evaluate(self, spec: Mapping[str, Any] | None = None) -> EvaluationView:
        """Have a model judged; `spec` is the body of `POST /evaluations`."""
        return self._transport.read(EvaluationView, "POST", "/evaluations", json=dict(spec or {}))

    def evaluation(self, id: Id) -> EvaluationView:
        """Where an evaluation stands, and its scores once it has ended."""
        return self._transport.read(EvaluationView, "GET", f"/evaluations/{id}")

    def evaluations(
        self,
        *,
        status: Sequence[str] = (),
        model: str | None = None,
        checkpoint: Id | None = None,
        benchmark: str | None = None,
    ) -> Iterator[EvaluationSummary]:
        """All evaluations that fit, newest first, fetched page by page."""
        query: Query = {"status": status, "model": model, "benchmark": benchmark}
        query = {**query, "checkpoint": None if checkpoint is None else str(checkpoint)}
        return self._transport.pages(EvaluationSummary, "/evaluations", query)

    def cancel_evaluation(self, id: Id) -> EvaluationView:
        """Ask for an evaluation's end; what was drawn and judged stays."""
        return self._transport.read(EvaluationView, "POST", f"/evaluations/{id}/cancel")

    def resume_evaluation(self, id: Id) -> EvaluationView:
        """Queue an ended evaluation again: only what is missing is drawn, and only unread answers are asked again."""
        return self._transport.read(EvaluationView, "POST", f"/evaluations/{id}/resume")

    def delete_evaluation(self, id: Id) -> None:
        """Delete an ended evaluation with its images and answers."""
        self._transport.send("DELETE", f"/evaluations/{id}")

    def evaluation_events(
        self, id: Id, after: int = 0, *, every: float = 1.0, timeout: float | None = None
    ) -> Iterator[EvaluationEvent]:
        """What happens to an evaluation, as `events` tells of a run; the last one is its EvaluationEnd."""
        deadline = None if timeout is None else time.monotonic() + timeout
        kinds = (EvaluationProgress, EvaluationEnd)
        return events.follow(self._transport, f"/evaluations/{id}/events", kinds, after, every, deadline)

    def wait_for_evaluation(
        self,
        id: Id,
        timeout: float | None = None,
        *,
        every: float = 1.0,
        seen: Callable[[EvaluationProgress], None] = lambda _: None,
    ) -> EvaluationView:
        """The evaluation once it has ended; `seen` gets each EvaluationProgress, at most once in `every` seconds.

        Raises TimeoutError after `timeout` seconds.
        """
        status: JobStatus | None = None
        for event in self.evaluation_events(id, LAST_ID, every=every, timeout=timeout):
            if isinstance(event, EvaluationEnd):
                return self.evaluation(id)
            if not isinstance(event, RunEvent):
                status = event.status
                seen(event)
        raise TimeoutError(f"evaluation {id} is {status or 'not heard of'} after {timeout:g} s")

    def evaluation_logs(self, id: Id, *, attempt: int | None = None, offset: int = 0) -> LogPart:
        """A part of what the evaluation's process printed; ask again from its `next_offset`."""
        query: Query = {"attempt": attempt, "offset": offset}
        return self._transport.read(LogPart, "GET", f"/evaluations/{id}/logs", query)
