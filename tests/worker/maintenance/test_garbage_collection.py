"""Only artifacts and files without references are removed."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, event, func, select, update

from service.contracts.events import RECOVERED
from service.contracts.status import JobStatus
from service.db.base import new_id
from service.db.models import (
    Attempt,
    Checkpoint,
    Deployment,
    Garbage,
    Generation,
    GenerationImage,
    IdempotencyKey,
    Metric,
    RewardGroup,
    Run,
    Sample,
    Score,
)
from service.db.models.run import LogChunk
from service.db.session import Database, connect
from tests.worker.jobs.conftest import with_settings
from worker.jobs.training_run import RunJobType
from worker.maintenance.garbage_collection import (
    ForeignStore,
    clear_local_files,
    collect_garbage,
    delete_idempotency_keys,
    find_leftovers,
    find_orphans,
)
from worker.maintenance.recovery import recover_unread, unread


@pytest.fixture
def hasty(impatient: Database) -> Database:
    """A database whose orphans may be deleted immediately."""
    return with_settings(impatient, orphan_seconds=1e-6, idempotency_seconds=60.0)


@pytest.fixture
def heard(impatient: Database) -> Iterator[Database]:
    """Separate connections whose statements the test observes."""
    connected = connect(impatient.settings)
    yield connected
    connected.close()


def put(database: Database, tmp_path: Path, key: str) -> str:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    database.artifacts.put_file(file, key)
    return key


class TestGarbage:
    def test_garbage_is_removed_with_its_row(self, impatient: Database, tmp_path: Path) -> None:
        gone, stays = put(impatient, tmp_path, "runs/a/1/file"), put(impatient, tmp_path, "runs/b/1/file")
        with impatient.transaction() as session:
            session.add_all([Garbage(prefix="runs/a"), Garbage(prefix="runs/never-there")])

        assert collect_garbage(impatient) == 2

        assert not impatient.artifacts.exists(gone)
        assert impatient.artifacts.exists(stays)
        assert collect_garbage(impatient) == 0


class TestOrphans:
    def test_images_of_an_unrecorded_scoring_are_marked(self, hasty: Database, tmp_path: Path) -> None:
        lost, row = new_id(), Score(requested={}, spec={}, spec_version=1, total_images=1)
        with hasty.transaction() as session:
            session.add(row)
        for id in (lost, row.id):
            put(hasty, tmp_path, f"scores/{id}/0.png")

        assert find_orphans(hasty) == [f"scores/{lost}"]

    def test_only_artifacts_without_a_row_are_marked(self, jobs: Any, hasty: Database, tmp_path: Path) -> None:
        known, orphan = jobs.add(), new_id()
        for key in (f"runs/{known}/1/f", f"runs/{orphan}/1/f", "runs/of-a-person/f", f"probes/{uuid.uuid4()}"):
            put(hasty, tmp_path, key)

        assert find_orphans(hasty) == [f"runs/{orphan}"]

        with hasty.transaction() as session:
            assert session.scalars(select(Garbage.prefix)).all() == [f"runs/{orphan}"]

    def test_store_of_another_database_is_not_touched(self, jobs: Any, hasty: Database, tmp_path: Path) -> None:
        find_orphans(hasty)
        put(hasty, tmp_path, f"runs/{new_id()}/1/f")
        with hasty.transaction() as session:
            session.execute(delete(Deployment))

        with pytest.raises(ForeignStore, match="belongs to another database"):
            find_orphans(hasty)
        (hasty.settings.data_dir / "work" / "runs").mkdir(parents=True)
        with pytest.raises(ForeignStore):
            clear_local_files(hasty)

    def test_recent_artifacts_are_skipped(self, impatient: Database, tmp_path: Path) -> None:
        put(impatient, tmp_path, f"checkpoints/{new_id()}/f")
        assert find_orphans(impatient) == []


class TestLeftovers:
    def test_unnamed_artifacts_of_ended_jobs_are_marked(self, jobs: Any, hasty: Database, tmp_path: Path) -> None:
        run = jobs.perform("finishes").id
        generation = Generation(requested={}, spec={}, spec_version=1)
        with hasty.transaction() as session:
            session.add(generation)
            session.flush()
            generation.move_to(JobStatus.CANCELLED)
            image = {"checkpoint": "base", "prompt_index": 0, "image_index": 0, "seed": 1, "sha256": "", "size": 1}
            drawn = put(hasty, tmp_path, f"generations/{generation.id}/2/0.png")
            session.add(GenerationImage(generation_id=generation.id, number=0, key=drawn, **image))
        lost = [f"generations/{generation.id}/1", f"runs/{run}/1/checkpoints/7"]
        for prefix in lost:
            put(hasty, tmp_path, f"{prefix}/0.png")
        with hasty.transaction() as session:
            for job in (Run, Generation):
                session.execute(update(job).values(ended_at=func.now() - timedelta(seconds=1)))

        assert sorted(find_leftovers(hasty)) == lost

        collect_garbage(hasty)
        assert hasty.artifacts.exists(drawn)
        assert hasty.artifacts.exists(f"runs/{run}/1/checkpoints/3/manifest.json")
        assert find_leftovers(hasty) == []

    def test_resumed_run_keeps_its_artifacts(self, jobs: Any, hasty: Database, heard: Database, tmp_path: Path) -> None:
        id = jobs.perform("finishes").id
        with hasty.transaction() as session:
            session.execute(update(Run).values(ended_at=func.now() - timedelta(seconds=1)))
        stored = []

        def resume(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "FROM evaluations" in statement:  # runs have already been selected
                with jobs.database.transaction() as session:
                    session.get_one(Run, id).move_to(JobStatus.QUEUED)
                stored.append(put(hasty, tmp_path, f"runs/{id}/{jobs.claim().attempt}/checkpoints/5/lora.safetensors"))

        event.listen(heard.engine, "before_cursor_execute", resume)
        assert find_leftovers(replace(heard, settings=hasty.settings)) == []

        collect_garbage(hasty)
        assert [hasty.artifacts.exists(key) for key in stored] == [True]


def test_expired_idempotency_keys_are_deleted(hasty: Database) -> None:
    with hasty.transaction() as session:
        for key, age in (("old", 61), ("young", 59)):
            made = func.now() - timedelta(seconds=age)
            session.add(IdempotencyKey(scope=uuid.UUID(int=0), key=key, fingerprint="", created_at=made))

    delete_idempotency_keys(hasty)

    with hasty.transaction() as session:
        assert session.scalars(select(IdempotencyKey.key)).all() == ["young"]


def test_local_files_of_deleted_and_old_jobs_are_removed(jobs: Any, hasty: Database) -> None:
    root = hasty.settings.data_dir / "work" / "runs"
    ended, going, deleted = jobs.perform("finishes").id, jobs.add(), new_id()
    for name in (going, deleted, "of-a-person"):
        (root / str(name)).mkdir(parents=True)
    drawn = hasty.settings.data_dir / "work" / "generations" / str(deleted)
    drawn.mkdir(parents=True)
    with hasty.transaction() as session:
        session.execute(update(Run).where(Run.id == ended).values(ended_at=func.now() - timedelta(seconds=1)))
        assert session.get_one(Run, ended).status is JobStatus.SUCCEEDED

    clear_local_files(hasty)

    assert {path.name for path in root.iterdir()} == {str(going), "of-a-person"}
    assert not drawn.exists()


class TestRecovery:
    def forget(self, database: Database) -> None:
        """Reset the offsets, as if the worker had died before reading anything."""
        with database.transaction() as session:
            for table in (Metric, RewardGroup, Sample, Checkpoint, LogChunk):
                session.execute(delete(table))
            session.execute(update(Attempt).values(events_offset=0, log_offset=0))

    def test_unread_events_of_an_ended_run_are_read_once(self, jobs: Any, impatient: Database) -> None:
        run = jobs.perform("is-killed-once")
        with impatient.transaction() as session:
            session.get_one(Run, run.id).move_to(JobStatus.CANCELLED)
        self.forget(impatient)
        checkpoints = [type for type, _ in jobs.events(run.id)].count("checkpoint")

        for _ in range(2):
            recover_unread(impatient, RunJobType())

        with impatient.transaction() as session:
            assert session.scalar(select(func.count()).select_from(Metric)) == 2
            assert session.scalar(select(func.count()).select_from(Checkpoint)) == 1
            assert session.scalar(select(func.count()).select_from(LogChunk)) == 1
        assert [type for type, _ in jobs.events(run.id)].count("checkpoint") == checkpoints + 1
        assert jobs.run(run.id).status is JobStatus.CANCELLED
        assert list(unread(impatient, Run)) == []
        assert [type for type, _ in jobs.events(run.id)].count(RECOVERED) == 1

    @pytest.mark.parametrize("collected", [False, True])
    def test_recovered_checkpoint_is_unmarked_or_stored_again(
        self, jobs: Any, impatient: Database, hasty: Database, heard: Database, collected: bool
    ) -> None:
        run = jobs.perform("is-killed-once")
        self.forget(impatient)
        with impatient.transaction() as session:
            session.get_one(Run, run.id).move_to(JobStatus.CANCELLED)
            session.flush()
            session.execute(update(Run).values(ended_at=func.now() - timedelta(seconds=1)))
        found = []

        def tidy(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "FROM runs" in statement and "FOR" in statement and not found:  # stored but not yet recorded
                found.extend(find_leftovers(hasty))
                if collected:
                    collect_garbage(hasty)

        event.listen(heard.engine, "before_cursor_execute", tidy)
        for _ in range(2):
            recover_unread(heard, RunJobType())
        collect_garbage(hasty)

        [checkpoint] = jobs.rows(Checkpoint, run)
        assert found == [checkpoint.key]
        hasty.artifacts.check_whole(checkpoint.stored.values())

    def test_recovery_does_not_block_a_clone(self, jobs: Any, impatient: Database, heard: Database) -> None:
        """A clone request already holds the lock of a checkpoint that retention also locks."""
        id = jobs.perform("is-killed-once").id
        with impatient.transaction() as session:
            session.get_one(Run, id).move_to(JobStatus.CANCELLED)
        self.forget(impatient)

        def refer(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "FROM runs" in statement and "FOR" in statement:
                with impatient.transaction() as session:
                    session.get_one(Run, id, with_for_update={"read": True, "key_share": True, "nowait": True})

        event.listen(heard.engine, "after_cursor_execute", refer)
        recover_unread(heard, RunJobType())

        assert list(unread(impatient, Run)) == []

    def test_claimable_run_is_not_recovered(self, jobs: Any, impatient: Database) -> None:
        jobs.perform("is-killed-once")
        self.forget(impatient)
        recover_unread(impatient, RunJobType())
        with impatient.transaction() as session:
            assert session.scalar(select(func.count()).select_from(Metric)) == 0

    def test_unread_files_are_not_removed(self, jobs: Any, hasty: Database) -> None:
        run = jobs.perform("finishes")
        self.forget(hasty)
        with hasty.transaction() as session:
            session.execute(update(Run).values(ended_at=func.now() - timedelta(seconds=1)))
        clear_local_files(hasty)
        assert (hasty.settings.data_dir / "work" / "runs" / str(run.id)).is_dir()
