"""The work of an evaluation: the child is told what is left to draw and to judge, and its answers become scores."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import structlog
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.contracts.evaluations import IMAGES, DrawnImage, EvaluationJob, EvaluationSpec, ImageName
from service.contracts.jobs import SPEC_FILE
from service.contracts.runs import Limits
from service.db import evaluation_scores, events
from service.db.artifacts import ArtifactDamaged
from service.db.models import Evaluation, EvaluationImage, SupervisedJob
from service.db.session import Database
from worker.jobs import artifact_transfer, command
from worker.jobs.claim import Claim, JobRow, held
from worker.jobs.evaluation_ingest import EvaluationIngest

log = structlog.get_logger()


class EvaluationWork:
    """Drawing and judging by `program`, which tests of supervision replace."""

    job: ClassVar[type[SupervisedJob]] = Evaluation
    stored: ClassVar[tuple[str, ...]] = (IMAGES, artifact_transfer.START)

    def __init__(self, program: Sequence[str] = command.EVALUATE) -> None:
        self._program = program

    def limits(self, row: Evaluation) -> Limits:
        """The operator's."""
        return Limits()

    def prepare(self, database: Database, claim: Claim, row: Evaluation, directory: Path) -> command.Launch:
        """Have the job, the checkpoint and the images that are yet to be judged on this machine.

        One of these that the store has lost or altered is drawn again. Raises ArtifactDamaged for the checkpoint.
        """
        spec = EvaluationSpec.model_validate(row.spec)
        with database.transaction() as session:
            benchmark = evaluation_scores.benchmark_of(session, row)
            images = session.scalars(select(EvaluationImage).where(EvaluationImage.evaluation_id == row.id)).all()
            asked = {(one.index, one.image_index): one for one in evaluation_scores.newest(session, row.id)}
        (directory / IMAGES).mkdir(exist_ok=True)
        drawn: list[DrawnImage] = []
        done: list[ImageName] = []
        for image in images:
            answer = asked.pop((image.index, image.image_index), None)
            if row.judge is None or (answer is not None and answer.scores is not None):
                done.append(ImageName(index=image.index, image_index=image.image_index))
                continue
            tries = answer.number if answer is not None else 0
            name = DrawnImage(index=image.index, image_index=image.image_index, asked=tries)
            drawn.append(name)
            try:
                data = database.artifacts.read(image.key, image.sha256)
            except ArtifactDamaged as error:
                _forget(database, claim, image, str(error))
                continue
            (directory / IMAGES / name.file).write_bytes(data)
        # The answer on one that was forgotten, or never stored, must have a number of its own, or it would not count.
        drawn += [DrawnImage(index=one.index, image_index=one.image_index, asked=one.number) for one in asked.values()]
        job = EvaluationJob.model_validate(
            {"spec": spec, "benchmark": benchmark, "judge": row.judge, "drawn": tuple(drawn), "done": tuple(done)}
        )
        job_file = directory / SPEC_FILE
        job_file.write_text(job.model_dump_json(), encoding="utf-8")
        checkpoint = None
        if spec.checkpoint != "base":
            checkpoint = artifact_transfer.fetch_checkpoint(
                database, spec.checkpoint, directory / artifact_transfer.START
            )
        return command.evaluate(job_file, directory, checkpoint, self._program)

    def ingest(
        self,
        database: Database,
        claim: Claim,
        directory: Path,
        number: int | None = None,
        lock: Callable[[Session, Claim], JobRow] = held,
    ) -> EvaluationIngest:
        """The reader of an attempt's files."""
        return EvaluationIngest(database, claim, directory, number, lock)

    def conclude(self, database: Database, claim: Claim) -> None:
        """Score all answers there are, and average the rewards."""
        with database.transaction() as session:
            row = held(session, claim)
            assert isinstance(row, Evaluation)
            evaluation_scores.score(session, row)


def _forget(database: Database, claim: Claim, image: EvaluationImage, damage: str) -> None:
    """Drop the row of an image that is no longer whole: what came first stays, and the next one is to be kept."""
    log.warning("image.damaged", evaluation=str(claim.id), detail=damage)
    name = ImageName(index=image.index, image_index=image.image_index)
    same = (EvaluationImage.index == name.index, EvaluationImage.image_index == name.image_index)
    with database.transaction() as session:
        held(session, claim)
        session.execute(delete(EvaluationImage).where(EvaluationImage.evaluation_id == claim.id, *same))
        data = {"image": name.file, "detail": damage}
        events.record(session, Evaluation, claim.id, claim.attempt, "image_damaged", data)
