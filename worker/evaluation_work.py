"""The work of an evaluation: the child is told what is left to draw and to judge, and its answers become scores."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.contracts.evaluations import PICTURES, DrawnPicture, EvaluationJob, EvaluationSpec, PictureName
from service.contracts.jobs import SPEC_FILE
from service.contracts.runs import Limits
from service.db import answers
from service.db.models import Evaluation, EvaluationPicture, SupervisedJob
from service.db.session import Database
from worker import artifacts, launch
from worker.claims import Claim, JobRow, held
from worker.evaluation_ingest import EvaluationIngest


class EvaluationWork:
    """Drawing and judging by `program`, which tests of supervision replace."""

    job: ClassVar[type[SupervisedJob]] = Evaluation
    stored: ClassVar[tuple[str, ...]] = (PICTURES, artifacts.START)

    def __init__(self, program: Sequence[str] = launch.EVALUATE) -> None:
        self._program = program

    def limits(self, row: Evaluation) -> Limits:
        """The operator's."""
        return Limits()

    def prepare(self, database: Database, claim: Claim, row: Evaluation, directory: Path) -> launch.Launch:
        """Have the job, the checkpoint and the pictures that are yet to be judged on this machine."""
        spec = EvaluationSpec.model_validate(row.spec)
        with database.transaction() as session:
            benchmark = answers.benchmark_of(session, row)
            pictures = session.scalars(select(EvaluationPicture).where(EvaluationPicture.evaluation_id == row.id)).all()
            asked = {(one.index, one.image): one for one in answers.newest(session, row.id)}
        (directory / PICTURES).mkdir(exist_ok=True)
        drawn, done = [], []
        for picture in pictures:
            answer = asked.get((picture.index, picture.image))
            if row.judge is None or (answer is not None and answer.scores is not None):
                done.append(PictureName(index=picture.index, image=picture.image))
                continue
            tries = answer.number if answer is not None else 0
            name = DrawnPicture(index=picture.index, image=picture.image, asked=tries)
            data = database.artifacts.read(picture.key, picture.sha256)
            (directory / PICTURES / name.file).write_bytes(data)
            drawn.append(name)
        job = EvaluationJob.model_validate(
            {"spec": spec, "benchmark": benchmark, "judge": row.judge, "drawn": tuple(drawn), "done": tuple(done)}
        )
        job_file = directory / SPEC_FILE
        job_file.write_text(job.model_dump_json(), encoding="utf-8")
        checkpoint = None
        if spec.checkpoint != "base":
            checkpoint = artifacts.fetch_checkpoint(database, spec.checkpoint, directory / artifacts.START)
        return launch.evaluate(job_file, directory, checkpoint, self._program)

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
            answers.score(session, row)
