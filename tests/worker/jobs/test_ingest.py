"""Ingestion writes each event exactly once, even if it is interrupted several times."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from service.contracts.status import JobStatus
from service.db.models import Attempt, Checkpoint, Metric, RewardGroup, Run, Sample
from service.db.models.run import LogChunk, RunEvent
from service.db.session import Database
from worker.jobs.claim import LeaseLost, move
from worker.jobs.training_run import RunIngest


def line(type: str, **values: Any) -> bytes:
    return json.dumps({"type": type, "time": datetime.now(UTC).isoformat(), **values}).encode() + b"\n"


def metrics(step: int) -> bytes:
    return line("metrics", step=step, values={"reward/clip_score": step / 100})


def append(directory: Path, data: bytes, name: str = "events.jsonl") -> None:
    directory.mkdir(exist_ok=True)
    with (directory / name).open("ab") as file:
        file.write(data)


def count(database: Database, table: type[Any]) -> int:
    with database.transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "attempt-1"
    made.mkdir()
    return made


@pytest.fixture
def claim(jobs: Any) -> Any:
    jobs.add()
    return jobs.claim()


class TestHeldout:
    @pytest.mark.parametrize(("resumed", "kept"), [(0, True), (1, False)])
    def test_summary_is_of_attempts_since_the_resumption(
        self, jobs: Any, impatient: Database, claim: Any, directory: Path, resumed: int, kept: bool
    ) -> None:
        with impatient.transaction() as session:
            session.execute(update(Run).values(resumed_attempt=resumed))
        summary = {"before": 0.5, "after": 0.75, "difference": 0.25, "interval95": [0.2, 0.3], "pairs": 8}
        append(directory, line("finished", outcome="succeeded", step=3, heldout={"clip_score": summary}))

        RunIngest(impatient, claim, directory).drain()

        assert jobs.run(claim.id).heldout == ({"clip_score": summary} if kept else None)


class TestDrain:
    def test_incomplete_line_is_not_read(self, impatient: Database, claim: Any, directory: Path) -> None:
        ingest, last = RunIngest(impatient, claim, directory), metrics(2)
        append(directory, metrics(1) + last[:20])
        ingest.drain()
        assert count(impatient, Metric) == 1

        append(directory, last[20:])
        ingest.drain()

        assert count(impatient, Metric) == 2

    def test_reading_again_changes_nothing(self, jobs: Any, impatient: Database) -> None:
        jobs.add("finishes")
        claim = jobs.claim()
        directory = impatient.settings.data_dir / "copy"
        source = impatient.settings.data_dir / "work" / "runs" / str(claim.id) / "attempt-1"
        jobs.supervise(claim).join()
        shutil.copytree(source, directory)
        tables = (Metric, RewardGroup, Sample, Checkpoint, LogChunk)
        before = [count(impatient, table) for table in tables]
        with impatient.transaction() as session:
            session.execute(text("UPDATE attempts SET events_offset = 0, log_offset = 0"))
            session.execute(text("UPDATE runs SET status = 'running', lease_owner = 'worker:1'"))

        again = RunIngest(impatient, claim, directory)
        again.drain()

        assert again.ending is not None
        assert [count(impatient, table) for table in tables] == before

    def test_offset_commits_with_the_rows(self, impatient: Database, claim: Any, directory: Path) -> None:
        append(directory, metrics(1) + metrics(2))
        RunIngest(impatient, claim, directory).drain()

        with impatient.transaction() as session:
            attempt = session.get_one(Attempt, (claim.id, 1))
            assert attempt.events_offset == len(metrics(1) + metrics(2))

    @pytest.mark.parametrize(("name", "data"), [("events.jsonl", metrics(1)), ("log.txt", b"a line of log\n")])
    def test_every_batch_updates_the_attempt(
        self, impatient: Database, claim: Any, directory: Path, name: str, data: bytes
    ) -> None:
        """The API caches responses about an ended run until its row or the rows of its attempts change."""
        append(directory, data, name)
        RunIngest(impatient, claim, directory).drain()

        written = text("SELECT xmin::text FROM attempts")
        added = text("SELECT xmin::text FROM metrics UNION SELECT xmin::text FROM log_chunks")
        with impatient.transaction() as session:
            assert session.scalars(added).all() == session.scalars(written).all()

    def test_killed_reader_loses_and_duplicates_nothing(
        self, impatient: Database, claim: Any, directory: Path, eventually: Any
    ) -> None:
        steps = 1000
        append(directory, b"".join(metrics(step) + b"no event\n" for step in range(steps)))
        url, data = impatient.settings.database_url, str(impatient.settings.data_dir)
        words = [url, data, str(claim.id), claim.owner, str(directory)]
        killed = subprocess.Popen([sys.executable, "-c", INGESTING, *words])
        eventually(lambda: count(impatient, Metric) > 0)
        killed.kill()
        killed.wait()
        assert 0 < count(impatient, Metric) < steps

        RunIngest(impatient, claim, directory).drain()

        assert count(impatient, Metric) == steps
        with impatient.transaction() as session:
            unreadable = select(func.count()).where(RunEvent.type == "unreadable_event")
            assert session.scalar(unreadable) == steps
            numbers = session.scalars(select(RunEvent.id).order_by(RunEvent.id)).all()
        assert list(numbers) == list(range(1, len(numbers) + 1))

    def test_lost_claim_writes_nothing(self, impatient: Database, claim: Any, directory: Path) -> None:
        ingest = RunIngest(impatient, claim, directory)
        append(directory, metrics(1))
        append(directory, b"a line of log\n", "log.txt")
        move(impatient, claim, JobStatus.INTERRUPTED)

        with pytest.raises(LeaseLost):
            ingest.drain()
        assert count(impatient, Metric) == count(impatient, LogChunk) == 0

    def test_nonfinite_values_become_null(self, impatient: Database, claim: Any, directory: Path) -> None:
        append(directory, line("metrics", step=1, values={"loss": None}))
        RunIngest(impatient, claim, directory).drain()

        with impatient.transaction() as session:
            assert session.scalars(select(Metric.value)).all() == [None]

    def test_log_is_stored_byte_by_byte(self, impatient: Database, claim: Any, directory: Path) -> None:
        printed = b"caf\xc3\xa9\x00\xff\n" * 100_000
        append(directory, printed, "log.txt")
        ingest = RunIngest(impatient, claim, directory)
        ingest.drain()
        append(directory, b"the end", "log.txt")
        ingest.drain()

        with impatient.transaction() as session:
            chunks = session.scalars(select(LogChunk).order_by(LogChunk.offset)).all()
        assert b"".join(chunk.data for chunk in chunks) == printed + b"the end"
        assert ingest.log.tail().endswith("the end")

    def test_long_log_is_cut_once(self, impatient: Database, claim: Any, directory: Path) -> None:
        most = 50_000
        small = replace(impatient, settings=impatient.settings.model_copy(update={"max_log_bytes": most}))
        printed = b"".join(b"line %d\n" % number for number in range(20_000))
        for begin, end in ((0, 30_000), (30_000, most), (most, 120_000), (120_000, len(printed))):
            append(directory, printed[begin:end], "log.txt")
            for _ in range(2):
                ingest = RunIngest(small, claim, directory)
                ingest.drain()
                ingest.log.trim()

        with impatient.transaction() as session:
            log = b"".join(session.scalars(select(LogChunk.data).order_by(LogChunk.offset)))
        assert log[:most] == printed[:most]
        assert log.count(b"are kept") == 1 and log.endswith(b"are kept: G2RPO_MAX_LOG_BYTES]\n")
        kept = (directory / "log.txt").read_bytes()
        assert len(kept) <= 2 * most and kept[:most] == printed[:most] and kept.endswith(b"line 19999\n")

    def test_many_rows_fit_one_batch(self, impatient: Database, claim: Any, directory: Path) -> None:
        values = {f"metric/{number}": 0.5 for number in range(100)}
        append(directory, b"".join(line("metrics", step=step, values=values) for step in range(300)))
        RunIngest(impatient, claim, directory).drain()  # one batch with more values than a statement can bind

        assert count(impatient, Metric) == 30_000


INGESTING = """
import sys, uuid
from pathlib import Path
from service.db.models import Run
from service.db.session import connect
from service.core.settings import Settings
import worker.jobs.ingest
from worker.jobs.training_run import RunIngest
from worker.jobs.claim import Claim
from worker.jobs.training_run import RunJobType
url, data, id, owner, directory = sys.argv[1:]
worker.jobs.ingest._BATCH_BYTES = 2000
database = connect(Settings(database_url=url, data_dir=Path(data)))
RunIngest(database, Claim(RunJobType(), uuid.UUID(id), 1, owner, 0.0), Path(directory)).drain()
"""
