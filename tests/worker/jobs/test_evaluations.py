"""Evaluations in a child process: events become rows and scores, and no image is judged twice."""

import hashlib
import json
import sys
import tempfile
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from service.api.benchmarks.service import store
from service.contracts.benchmarks.scores import Scores
from service.contracts.catalog import JudgeEntry
from service.contracts.evaluations import EvaluationSpec
from service.contracts.status import JobStatus
from service.db.artifacts import ArtifactStore
from service.db.models import BenchmarkRow, Evaluation, EvaluationAnswer, EvaluationImage, Garbage
from service.db.models.evaluation import EvaluationAttempt, EvaluationEvent, EvaluationLogChunk
from service.db.session import Database
from tests.service.unigenbench import EN, benchmark
from tests.worker.jobs.conftest import with_settings
from worker.jobs.claim import Claim, claim_next, end_lost_attempt, move
from worker.jobs.evaluation import EvaluationIngest, EvaluationJobType
from worker.jobs.job_runner import run_job
from worker.maintenance.garbage_collection import collect_garbage
from worker.maintenance.recovery import recover_unread

PROGRAM = (sys.executable, "-S", str(Path(__file__).with_name("scripted_evaluation.py")))
EVALUATION = EvaluationJobType(PROGRAM)
JUDGE = JudgeEntry(name="j", kind="openai", url="http://127.0.0.1:1/v1", model="seer")


class Evaluations:
    """Evaluations of the first three prompts, supervised in this thread."""

    def __init__(self, database: Database) -> None:
        self.database = database
        with database.transaction() as session:
            store(session, benchmark())

    def add(self, name: str = "finishes", judge: JudgeEntry | None = JUDGE, **changes: Any) -> uuid.UUID:
        """A queued evaluation of three prompts with two images each; `name` specifies the child's behavior."""
        spec = EvaluationSpec(name=name, benchmark=EN.name, rewards=("clip_score",), num_images=2, **changes)
        with self.database.transaction() as session:
            benchmark_id = session.scalars(select(BenchmarkRow.id)).one()
            row = Evaluation(
                name=name,
                requested={},
                spec=spec.model_dump(mode="json"),
                spec_version=1,
                model=spec.model,
                benchmark_id=benchmark_id,
                judge=None if judge is None else judge.model_dump(mode="json"),
                prompts=[0, 1, 2],
                total_images=6,
            )
            session.add(row)
        return row.id

    def claim(self) -> Claim:
        """Claim the next evaluation."""
        claim = claim_next(self.database, EVALUATION, "worker:1")
        assert claim is not None
        return claim

    def perform(self) -> Evaluation:
        """Execute one attempt at the next evaluation, and return its row."""
        claim = self.claim()
        run_job(self.database, claim, threading.Event())
        return self.row(claim.id)

    def row(self, id: uuid.UUID) -> Evaluation:
        with self.database.transaction() as session:
            return session.get_one(Evaluation, id)

    def queue_again(self, id: uuid.UUID) -> None:
        with self.database.transaction() as session:
            row = session.get_one(Evaluation, id)
            row.move_to(JobStatus.QUEUED)
            row.resumed_attempt, row.error = row.attempt, None

    def rows(self, table: type[Any], id: uuid.UUID) -> list[Any]:
        with self.database.transaction() as session:
            return list(
                session.scalars(select(table).where(table.evaluation_id == id).order_by(*table.__mapper__.primary_key))
            )

    def asked(self, id: uuid.UUID) -> list[tuple[int, int, int]]:
        """The answers, as prompt index, image index and answer number."""
        return [(one.index, one.image_index, one.number) for one in self.rows(EvaluationAnswer, id)]


def unscorable(evaluations: Evaluations, id: uuid.UUID) -> None:
    """Add an answer with an unknown failure, for an image outside the evaluation."""
    with evaluations.database.transaction() as session:
        key = {"evaluation_id": id, "index": 9, "image_index": 0, "number": 1}
        session.add(EvaluationAnswer(**key, failure="of a later version", seconds=1.0))


def spoil(store: ArtifactStore, key: str, damage: str) -> None:
    """Delete or alter a file in the artifact store."""
    store.delete(key)
    if damage == "altered":
        with tempfile.NamedTemporaryFile() as other:
            store.put_file(Path(other.name), key)


ALL = [(index, image_index, 1) for index in range(3) for image_index in range(2)]


@pytest.fixture
def evaluations(impatient: Database) -> Evaluations:
    return Evaluations(impatient)


def test_events_become_rows_and_scores(evaluations: Evaluations) -> None:
    id = evaluations.add()
    row = evaluations.perform()

    assert row.status is JobStatus.SUCCEEDED and row.progress is not None and row.progress["step"] == 6
    assert evaluations.asked(id) == ALL
    images = evaluations.rows(EvaluationImage, id)
    assert [(one.index, one.image_index, one.seed) for one in images] == [(i, j, 3407 + j) for i, j, _ in ALL]
    stored = [evaluations.database.artifacts.read(one.key, one.sha256) for one in images]
    assert stored == [f"image {j} of prompt {i}".encode() for i, j, _ in ALL]
    assert row.scores is not None and row.rewards is not None
    found, points = Scores.model_validate(row.scores), 2 * sum(len(p.points) for p in benchmark().prompts[:3])
    assert (found.micro.correct, found.micro.total) == (points - 2, points)
    assert (found.prompts, found.images, found.failed_answers, found.missing_images) == (3, 6, 0, 0)
    assert row.rewards["clip_score"]["mean"] == pytest.approx(0.1)
    assert row.rewards["clip_score"]["images"] == 6
    (attempt,) = evaluations.rows(EvaluationAttempt, id)
    assert (attempt.outcome, attempt.provenance["device"]) == ("succeeded", "scripted")
    assert [one.type for one in evaluations.rows(EvaluationEvent, id)] == ["status", "started", "status", "status"]
    assert b"the child started" in b"".join(one.data for one in evaluations.rows(EvaluationLogChunk, id))


def test_killed_evaluation_continues(evaluations: Evaluations) -> None:
    id = evaluations.add("is-killed-once")
    assert evaluations.perform().status is JobStatus.INTERRUPTED
    assert evaluations.perform().status is JobStatus.SUCCEEDED

    assert evaluations.asked(id) == ALL
    told = evaluations.rows(EvaluationAttempt, id)[1].provenance
    assert (told["done"], told["pending"]) == ([[0, 0], [0, 1], [1, 0]], [[1, 1]])
    assert len(evaluations.rows(EvaluationImage, id)) == 6


def test_lost_evaluation_is_scored_with_what_it_has(evaluations: Evaluations) -> None:
    evaluations.add("is-killed-once")
    evaluations.database = with_settings(evaluations.database, max_attempts=1)
    row = evaluations.perform()
    assert row.status is JobStatus.FAILED and row.error is not None and row.error["code"] == "lost"
    assert row.scores is not None and row.scores["images"] == 3


class TestCancelledWithoutItsWorker:
    def cancelling(self, evaluations: Evaluations) -> Claim:
        """An evaluation with three judged images, cancelled while its next worker holds it."""
        evaluations.add("is-killed-once")
        evaluations.perform()
        claim = evaluations.claim()
        with evaluations.database.transaction() as session:
            session.get_one(Evaluation, claim.id).move_to(JobStatus.CANCELLING)
        return claim

    def give_up(self, evaluations: Evaluations, claim: Claim) -> Evaluation:
        with evaluations.database.transaction() as session:
            end_lost_attempt(session, EVALUATION, session.get_one(Evaluation, claim.id, with_for_update=True))
        return evaluations.row(claim.id)

    def test_scored_when_its_lease_expires(self, evaluations: Evaluations) -> None:
        row = self.give_up(evaluations, self.cancelling(evaluations))
        assert row.status is JobStatus.CANCELLED and row.scores is not None and row.rewards is not None
        assert (row.scores["images"], row.rewards["clip_score"]["images"]) == (3, 4)

    def test_scored_when_its_process_is_lost(self, evaluations: Evaluations) -> None:
        claim = self.cancelling(evaluations)
        move(evaluations.database, claim, JobStatus.INTERRUPTED, lost=True)
        row = evaluations.row(claim.id)
        assert row.status is JobStatus.CANCELLED and row.scores is not None and row.scores["images"] == 3

    def test_unscorable_answers_do_not_prevent_its_end(self, evaluations: Evaluations) -> None:
        claim = self.cancelling(evaluations)
        unscorable(evaluations, claim.id)
        row = self.give_up(evaluations, claim)
        assert row.status is JobStatus.CANCELLED and row.scores is None


def test_recovered_answers_of_an_ended_evaluation_are_scored(evaluations: Evaluations) -> None:
    id = evaluations.add("is-killed-once")
    evaluations.perform()
    with evaluations.database.transaction() as session:  # as if nothing had been stored before the end
        for table in (EvaluationImage, EvaluationAnswer, EvaluationLogChunk):
            session.execute(delete(table))
        session.execute(update(EvaluationAttempt).values(events_offset=0, log_offset=0))
        session.get_one(Evaluation, id).move_to(JobStatus.FAILED)

    recover_unread(evaluations.database, EVALUATION)

    row = evaluations.row(id)
    assert row.status is JobStatus.FAILED and row.scores is not None and row.rewards is not None
    assert (row.scores["images"], row.rewards["clip_score"]["images"]) == (3, 4)


def test_unscorable_answers_do_not_prevent_its_end(evaluations: Evaluations) -> None:
    unscorable(evaluations, evaluations.add())
    row = evaluations.perform()
    assert row.status is JobStatus.SUCCEEDED and row.scores is None


def test_failed_judge_keeps_and_scores_earlier_answers(evaluations: Evaluations) -> None:
    id = evaluations.add("judge-goes")
    row = evaluations.perform()
    assert row.status is JobStatus.FAILED and row.error is not None and row.error["code"] == "judge_failed"
    assert row.scores is not None and row.scores["images"] == 3

    evaluations.queue_again(id)
    row = evaluations.perform()
    assert row.status is JobStatus.SUCCEEDED and row.scores is not None and row.scores["images"] == 6
    assert evaluations.asked(id) == ALL


def test_resumed_evaluation_repeats_only_unreadable_answers(evaluations: Evaluations) -> None:
    id = evaluations.add("mumbles")
    row = evaluations.perform()
    assert row.status is JobStatus.SUCCEEDED and row.scores is not None
    assert (row.scores["failed_answers"], row.scores["failures"]) == (3, {"no_scores": 3})
    assert evaluations.rows(EvaluationAnswer, id)[1].text == "hm�"

    evaluations.queue_again(id)
    row = evaluations.perform()
    assert row.scores is not None and (row.scores["failed_answers"], row.scores["images"]) == (0, 6)
    assert [one for one in evaluations.asked(id) if one[2] == 2] == [(0, 1, 2), (1, 1, 2), (2, 1, 2)]


def test_without_a_judge_there_are_images_and_rewards_only(evaluations: Evaluations) -> None:
    id = evaluations.add(judge=None)
    row = evaluations.perform()
    assert row.status is JobStatus.SUCCEEDED and row.scores is None
    assert row.rewards is not None and row.rewards["clip_score"]["failures"] == 0
    assert evaluations.asked(id) == []


def test_image_with_a_wrong_hash_is_rejected(evaluations: Evaluations) -> None:
    id = evaluations.add("spoils")
    evaluations.perform()
    assert evaluations.rows(EvaluationImage, id) == []
    refused = [one.data for one in evaluations.rows(EvaluationEvent, id) if one.type == "image_rejected"]
    assert [one["image"] for one in refused] == [f"{i}_{j}.png" for i, j, _ in ALL]


def test_resumed_evaluation_generates_and_judges_rejected_images(evaluations: Evaluations) -> None:
    id = evaluations.add("spoils")
    evaluations.perform()

    evaluations.queue_again(id)
    row = evaluations.perform()
    assert row.status is JobStatus.SUCCEEDED and row.scores is not None and row.scores["images"] == 6
    assert len(evaluations.rows(EvaluationImage, id)) == 6
    assert [one for one in evaluations.asked(id) if one[2] == 2] == [(i, j, 2) for i, j, _ in ALL]


@pytest.mark.parametrize("damage", ["lost", "altered"])
@pytest.mark.parametrize(("name", "place", "asked"), [("judge-goes", (1, 1), 1), ("mumbles", (1, 1), 2)])
def test_damaged_image_is_generated_again(
    evaluations: Evaluations, damage: str, name: str, place: tuple[int, int], asked: int
) -> None:
    id, store = evaluations.add(name), evaluations.database.artifacts
    evaluations.perform()
    (key,) = [one.key for one in evaluations.rows(EvaluationImage, id) if (one.index, one.image_index) == place]
    spoil(store, key, damage)

    evaluations.queue_again(id)
    row = evaluations.perform()
    assert row.status is JobStatus.SUCCEEDED and row.scores is not None
    assert (row.scores["images"], row.scores["failed_answers"]) == (6, 0)
    assert (*place, asked) in evaluations.asked(id)
    stored = [store.read(one.key, one.sha256) for one in evaluations.rows(EvaluationImage, id)]
    assert stored == [f"image {j} of prompt {i}".encode() for i, j, _ in ALL]
    told = [one.data for one in evaluations.rows(EvaluationEvent, id) if one.type == "image_damaged"]
    assert [one["image"] for one in told] == ["1_1.png"]


def test_image_lost_before_regeneration_is_judged_again(evaluations: Evaluations) -> None:
    id = evaluations.add("mumbles")
    evaluations.perform()
    (key,) = [one.key for one in evaluations.rows(EvaluationImage, id) if (one.index, one.image_index) == (1, 1)]
    spoil(evaluations.database.artifacts, key, "lost")
    evaluations.queue_again(id)
    claim, work = evaluations.claim(), EvaluationJobType(PROGRAM)
    directory = evaluations.database.settings.data_dir.absolute() / "work" / "evaluations" / str(id) / "attempt-2"
    directory.mkdir(parents=True)
    work.prepare(evaluations.database, claim, evaluations.row(id), directory)
    with evaluations.database.transaction() as session:
        end_lost_attempt(session, EVALUATION, session.get_one(Evaluation, id, with_for_update=True))

    row = evaluations.perform()
    assert row.status is JobStatus.SUCCEEDED and row.scores is not None
    assert (row.scores["images"], row.scores["failed_answers"]) == (6, 0)


def test_cancelled_evaluation_keeps_its_results(evaluations: Evaluations, eventually: Any) -> None:
    id = evaluations.add("waits")
    claim = evaluations.claim()
    work = threading.Thread(target=run_job, args=(evaluations.database, claim, threading.Event()))
    work.start()
    eventually(lambda: evaluations.asked(id))
    with evaluations.database.transaction() as session:
        session.get_one(Evaluation, id).move_to(JobStatus.CANCELLING)
    work.join()
    assert evaluations.row(id).status is JobStatus.CANCELLED
    assert evaluations.asked(id) == ALL[:1]


def test_first_rows_stay(evaluations: Evaluations, tmp_path: Path) -> None:
    id = evaluations.add()
    row = evaluations.perform()
    with evaluations.database.transaction() as session:
        session.add(EvaluationAttempt(evaluation_id=id, number=9, worker="worker:2"))
    (tmp_path / "events.jsonl").write_text(
        '{"type": "answer", "time": "2026-01-01T00:00:00Z", "index": 0, "image_index": 0, "number": 1, "text": "late", '
        '"scores": null, "failure": "no_scores", "seconds": 1.0}\n'
    )
    claim = Claim(EVALUATION, id, row.attempt, "", 0.0)
    late = EvaluationIngest(evaluations.database, claim, tmp_path, 9, lock=lambda held, _: held.get_one(Evaluation, id))
    late.drain()
    assert evaluations.rows(EvaluationAnswer, id)[0].text != "late"


def test_marked_leftover_is_unmarked_when_a_row_names_it(evaluations: Evaluations, tmp_path: Path) -> None:
    id, database = evaluations.add(), evaluations.database
    row, key, sha256 = evaluations.perform(), f"evaluations/{id}/9/0_0.png", hashlib.sha256(b"late").hexdigest()
    with database.transaction() as session:
        session.execute(delete(EvaluationImage))
        session.add_all([EvaluationAttempt(evaluation_id=id, number=9, worker="worker:2"), Garbage(prefix=key)])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0_0.png").write_bytes(b"late")
    drawn = {"type": "image", "time": "2026-01-01T00:00:00Z", "index": 0, "image_index": 0, "seed": 1}
    (tmp_path / "events.jsonl").write_text(json.dumps({**drawn, "sha256": sha256, "size": 4}) + "\n")

    claim = Claim(EVALUATION, id, row.attempt, "", 0.0)
    EvaluationIngest(database, claim, tmp_path, 9, lock=lambda held, _: held.get_one(Evaluation, id)).drain()

    collect_garbage(database)
    assert database.artifacts.read(key, sha256) == b"late"
