"""Rows in every table of the newest schema, in the form that the API and workers store them."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from service.api.keys.schemas import KeySpec
from service.api.keys.service import add_key
from service.auth.principal import Scope
from service.contracts.status import JobStatus
from service.db import deletion, events
from service.db.base import new_id
from service.db.models import (
    ApiKey,
    Checkpoint,
    Evaluation,
    Generation,
    IdempotencyKey,
    Run,
    Sample,
    Score,
    ScoreImage,
    Worker,
)
from service.db.models.evaluation import EvaluationAttempt, EvaluationLogChunk
from service.db.models.run import LogChunk
from tests.service.records import Records
from tests.service.unigenbench import benchmark

LONG_AGO = datetime(2025, 1, 1, tzinfo=UTC)
PNG = b"\x89PNG"
WEIGHTS = {"pytorch_lora_weights.safetensors": b"weights"}
IMAGE: dict[str, Any] = {"prompt": "a red circle", "sha256": "0" * 64, "size": len(PNG)}


def fill(records: Records) -> None:
    """Create rows in every table, with all variants that a migration may treat differently."""
    with records.database.transaction() as session:
        key = add_key(session, KeySpec(name="lab", scopes=(Scope.WRITE,))).row
        add_key(session, KeySpec(name="left", scopes=(Scope.ADMIN,))).row.revoked_at = LONG_AGO
        imported = _imported(key)
        session.add_all([imported, Worker(name="worker:1", queue="train", device="cpu", stats={"memory": 1.0})])
    run, checkpoint = _runs(records, key, imported)
    generation = _generations(records, imported)
    _evaluations(records, checkpoint, imported)
    with records.database.transaction() as session:
        _score(session, records, generation)
        session.add(IdempotencyKey(scope=key.id, key="once", fingerprint="0" * 64, resource_id=run.id))
        for job in (Run, Generation, Evaluation, Score):
            session.execute(update(job).values(created_by=key.id))


def _imported(key: ApiKey) -> Checkpoint:
    """Imported weights."""
    id = new_id()
    return Checkpoint(
        id=id,
        name="ours",
        attempt=0,
        step=0,
        kind="lora",
        model="shapes-flux",
        manifest={"files": []},
        key=f"checkpoints/{id}",
        size=7,
        created_by=key.id,
    )


def _runs(records: Records, key: ApiKey, imported: Checkpoint) -> tuple[Run, Checkpoint]:
    prompts = records.prompt_set("mine", ["a red circle"], created_by=key.id)
    records.prompt_set("mine", ["a blue square"], deleted_at=LONG_AGO)
    run = records.run(JobStatus.SUCCEEDED, name="first", attempt=2, prompt_sets={"mine": str(prompts.id)})
    records.attempts(run, 2)
    records.metric(run, "loss", [0.5, None], attempt=2)
    records.reward_group(run, [0.1, None])
    whole = records.checkpoint(run, WEIGHTS, step=20, best_value=0.5)
    records.checkpoint(run, WEIGHTS, step=30, damaged=True)
    retired = records.checkpoint(run, WEIGHTS, step=10)
    records.run(JobStatus.SUCCEEDED, name="from whole", start_from=whole.id, parent_id=run.id)
    records.run(JobStatus.SUCCEEDED, name="from retired", start_from=retired.id)
    records.run(JobStatus.QUEUED, name="from imported", start_from=imported.id)
    saved = records.run(JobStatus.INTERRUPTED, name="from imported, and saved since", start_from=imported.id)
    records.checkpoint(saved, WEIGHTS)
    records.run(JobStatus.PAUSED, name="paused")
    with records.database.transaction() as session:
        deletion.retire(session, [session.get_one(Checkpoint, retired.id)])
        events.record(session, Run, run.id, 2, "status", {"status": "succeeded"})
        session.add(LogChunk(run_id=run.id, attempt=2, offset=0, data=b"step 1 of 60\n"))
        place = {"run_id": run.id, "attempt": 2, "step": 1, "kind": "heldout", "index": 0}
        session.add(Sample(**place, **IMAGE, rewards={"clip_score": 0.5}, key=f"runs/{run.id}/2/samples/1.png"))
    return run, whole


def _generations(records: Records, imported: Checkpoint) -> Generation:
    spec = {"model": "shapes-flux", "checkpoints": [str(imported.id)], "prompts": ["a red circle"], "num_images": 1}
    row = records.generation(spec, JobStatus.SUCCEEDED)
    records.image(row, 0, PNG, checkpoint=str(imported.id))
    records.generation(spec)
    return row


def _evaluations(records: Records, *checkpoints: Checkpoint) -> None:
    content = benchmark()
    first = content.prompts[0]
    for checkpoint in checkpoints:
        row = records.evaluation(
            content, answers={(first.index, 0): [1] * len(first.points)}, checkpoint=checkpoint, limit=1, num_images=1
        )
        records.evaluation_image(row, first.index, 0, PNG, clip_score=0.5)
        with records.database.transaction() as session:
            events.record(session, Evaluation, row.id, 1, "status", {"status": "succeeded"})
            session.add(EvaluationAttempt(evaluation_id=row.id, number=1, worker="worker:1", ended_at=LONG_AGO))
            session.add(EvaluationLogChunk(evaluation_id=row.id, attempt=1, offset=0, data=b"1 of 1\n"))


def _score(session: Session, records: Records, generation: Generation) -> None:
    row = records.score({"rewards": ["clip_score"], "generation": str(generation.id)}, JobStatus.SUCCEEDED)
    key = f"generations/{generation.id}/0.png"
    session.add(ScoreImage(score_id=row.id, number=0, width=32, height=32, key=key, **IMAGE))
