"""Evaluation jobs: a child process generates and judges the missing images, and the answers are scored."""

import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from service.contracts.attempt_files import SPEC_FILE
from service.contracts.evaluations import (
    IMAGES,
    EvaluationEventLine,
    EvaluationJob,
    EvaluationSpec,
    ImageAnswered,
    ImageGenerated,
    ImageName,
    PendingImage,
)
from service.contracts.status import INACTIVE
from service.db import evaluation_scores, events
from service.db.artifacts import ArtifactDamaged
from service.db.models import Evaluation, EvaluationAnswer, EvaluationImage
from service.db.session import Database
from worker.jobs import artifact_transfer
from worker.jobs.claim import Claim, held
from worker.jobs.ingest import Batch, Ingest
from worker.jobs.process import Command
from worker.jobs.supervisor import SupervisedJobType

log = structlog.get_logger()

PROGRAM = (sys.executable, "-m", "worker.entrypoints.evaluate")


def evaluate_command(
    job_file: Path, directory: Path, checkpoint: Path | None, program: Sequence[str] = PROGRAM
) -> Command:
    """Return the command that evaluates the job in `job_file` and writes its output to `directory`.

    The base model is evaluated if `checkpoint` is None.
    """
    start = [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
    return Command((*program, str(job_file), "--out", str(directory), *start))


class EvaluationIngest(Ingest[Batch]):
    """Ingests the files of an evaluation attempt."""

    def _read(self, line: bytes, batch: Batch) -> None:
        match EvaluationEventLine.validate_json(line):
            case ImageGenerated() as event:
                self._read_image(event, batch)
            case ImageAnswered() as event:
                row = event.model_dump(mode="json", exclude={"type", "time"})
                # PostgreSQL stores no NUL in text.
                row["text"] = None if event.text is None else event.text.replace("\x00", "�")
                batch.rows[EvaluationAnswer].append({**row, "answered_at": event.time, "evaluation_id": self._claim.id})
                batch.counts["answers"] += 1
            case event:
                self._read_common(event, batch)

    def _read_image(self, event: ImageGenerated, batch: Batch) -> None:
        name = ImageName(index=event.index, image_index=event.image_index).file
        key = f"{self._prefix()}/{name}"
        try:
            source = artifact_transfer.inside(self._directory, f"{IMAGES}/{name}")
            artifact_transfer.store_file(self._database.artifacts, source, key, event.sha256)
        except artifact_transfer.Rejected as error:
            batch.records.append(("image_rejected", {"image": name, "detail": str(error)}))
            return
        batch.files[key] = [key]
        row = event.model_dump(exclude={"type", "time"})
        batch.rows[EvaluationImage].append({**row, "evaluation_id": self._claim.id, "key": key})
        batch.counts["images"] += 1

    def _write(self, session: Session, row: Evaluation, batch: Batch) -> None:
        self._keep(session, select(EvaluationImage.key).where(EvaluationImage.evaluation_id == row.id), batch)
        if batch.rows:
            row.losses = 0
            if row.status in INACTIVE:  # the evaluation ended before these rows were read
                evaluation_scores.conclude(session, row)


class EvaluationJobType(SupervisedJobType):
    """Job type for evaluations, which generate and judge the images of a benchmark."""

    model = Evaluation
    program = PROGRAM
    artifact_pattern = "*/*"
    ingest = EvaluationIngest
    stored = (IMAGES, artifact_transfer.START)

    def artifact_keys(self, id: uuid.UUID) -> Select[Any]:
        return select(EvaluationImage.key).where(EvaluationImage.evaluation_id == id)

    def conclude(self, session: Session, row: Evaluation) -> None:
        """Score all recorded answers, including those of a failed or cancelled evaluation."""
        evaluation_scores.conclude(session, row)

    def prepare(self, database: Database, claim: Claim, row: Evaluation, directory: Path) -> Command:
        """Write the job file, the checkpoint and the images that remain to be judged, and return the command.

        Images that are missing or damaged in the store are generated again. Raises ArtifactDamaged if the checkpoint is
        damaged.
        """
        spec = EvaluationSpec.model_validate(row.spec)
        with database.transaction() as session:
            benchmark = evaluation_scores.benchmark_of(session, row)
            images = session.scalars(select(EvaluationImage).where(EvaluationImage.evaluation_id == row.id)).all()
            answers = {(one.index, one.image_index): one for one in evaluation_scores.newest(session, row.id)}
        (directory / IMAGES).mkdir(exist_ok=True)
        pending: list[PendingImage] = []
        done: list[ImageName] = []
        for image in images:
            answer = answers.pop((image.index, image.image_index), None)
            if row.judge is None or (answer is not None and answer.scores is not None):
                done.append(ImageName(index=image.index, image_index=image.image_index))
                continue
            tries = answer.number if answer is not None else 0
            name = PendingImage(index=image.index, image_index=image.image_index, requests=tries)
            pending.append(name)
            try:
                data = database.artifacts.read(image.key, image.sha256)
            except ArtifactDamaged as error:
                _delete_damaged(database, claim, image, str(error))
                continue
            (directory / IMAGES / name.file).write_bytes(data)
        # Answers without a stored image. Only the answer with the highest number is used, so numbering must continue.
        pending += [
            PendingImage(index=one.index, image_index=one.image_index, requests=one.number) for one in answers.values()
        ]
        job = EvaluationJob.model_validate(
            {"spec": spec, "benchmark": benchmark, "judge": row.judge, "pending": tuple(pending), "done": tuple(done)}
        )
        job_file = directory / SPEC_FILE
        job_file.write_text(job.model_dump_json(), encoding="utf-8")
        checkpoint = None
        if spec.checkpoint != "base":
            start = directory / artifact_transfer.START
            checkpoint = artifact_transfer.fetch_checkpoint(database, spec.checkpoint, start)
        return evaluate_command(job_file, directory, checkpoint, self.program)


def _delete_damaged(database: Database, claim: Claim, image: EvaluationImage, damage: str) -> None:
    """Delete the row of a damaged image, because the row of a regenerated image does not replace an existing row."""
    log.warning("image.damaged", evaluation=str(claim.id), detail=damage)
    name = ImageName(index=image.index, image_index=image.image_index)
    same = (EvaluationImage.index == name.index, EvaluationImage.image_index == name.image_index)
    with database.transaction() as session:
        held(session, claim)
        session.execute(delete(EvaluationImage).where(EvaluationImage.evaluation_id == claim.id, *same))
        data = {"image": name.file, "detail": damage}
        events.record(session, Evaluation, claim.id, claim.attempt, "image_damaged", data)
