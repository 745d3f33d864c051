"""Following a run with and without a terminal."""

import io
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from fastapi import FastAPI
from rich.console import Console

from service.cli.watch import ProgressDisplay, watch
from service.client import Client, RunProgress
from service.contracts.status import JobStatus
from service.db.events import notify_job
from service.db.models import Run
from service.db.session import Database


class Moving(Client):
    """A client whose run changes its state with each reported progress."""

    database: Database
    moves: Iterator[JobStatus]

    def wait_for_run(self, id: Any, *arguments: Any, seen: Any, **options: Any) -> Any:
        def seen_and_moved(now: RunProgress) -> None:
            seen(now)
            status = next(self.moves, None)
            if status is not None:
                with self.database.transaction() as session:
                    session.get_one(Run, id).move_to(status)
                    notify_job(session, "run", id)

        return super().wait_for_run(id, *arguments, seen=seen_and_moved, **options)


@pytest.fixture
def moving(app: FastAPI, serve: Any, database: Database) -> Iterator[Moving]:
    """A client of the service."""
    with serve(app) as url, Moving(url) as client:
        client.database = database
        yield client


@pytest.fixture
def run(records: Any) -> Run:
    """A running run."""
    progress = {"time": "2026-01-01T12:00:00Z", "step": 7, "max_steps": 60, "phase": "rollout", "eta_seconds": 125.0}
    created: Run = records.run(JobStatus.RUNNING, progress=progress)
    records.metric(created, "reward/clip_score", [0.25, 0.5])
    records.metric(created, "heldout/clip_score", [0.75])
    return created


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("last", [JobStatus.SUCCEEDED, JobStatus.FAILED])
def test_progress_is_shown_until_the_run_ends(moving: Moving, run: Run, terminal: bool, last: JobStatus) -> None:
    moving.moves = iter([last])
    on = Console(file=io.StringIO(), force_terminal=terminal, width=200)
    ended = watch(moving, moving.run(run.id), on, every=0.1)
    assert ended.status is last
    shown = on.file.getvalue()  # type: ignore[attr-defined]
    for part in ("running", "7/60", "2 min 5 s left", "held-out clip_score 0.7500"):
        assert part in shown


def test_watching_ends_with_a_pause(moving: Moving, run: Run) -> None:
    moving.moves = iter([JobStatus.PAUSING, JobStatus.PAUSED])
    assert watch(moving, moving.run(run.id), Console(file=io.StringIO()), every=0.1).status is JobStatus.PAUSED


def test_a_queued_run_shows_its_queue_position(moving: Moving, records: Any) -> None:
    records.run()
    waiting = records.run()
    moving.moves = iter([JobStatus.CANCELLED])
    on = Console(file=io.StringIO(), width=200)
    watch(moving, moving.run(waiting.id), on, every=0.1)
    assert "queued 0/?  queue position 2" in on.file.getvalue()  # type: ignore[attr-defined]


def test_an_interrupt_shows_how_to_watch_again(capsys: pytest.CaptureFixture[str]) -> None:
    on = Console(file=io.StringIO())
    with pytest.raises(typer.Exit) as stopped, ProgressDisplay(on, again="g2rpo runs watch 1"):
        raise KeyboardInterrupt
    assert stopped.value.exit_code == 130
    assert capsys.readouterr().err == "The job continues; watch it again with `g2rpo runs watch 1`\n"
