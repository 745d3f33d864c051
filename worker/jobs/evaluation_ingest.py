"""What an evaluation's child says, as rows: pictures and answers."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.contracts.evaluations import (
    PICTURES,
    EvaluationEventLine,
    PictureAnswered,
    PictureDrawn,
    PictureName,
)
from service.contracts.status import RESTING
from service.db import evaluation_scores as answers
from service.db.models import Evaluation, EvaluationAnswer, EvaluationPicture
from worker.jobs import artifact_transfer
from worker.jobs.ingest import Batch, Ingest, upsert

_PICTURE = ("evaluation_id", "index", "image")


@dataclass
class EvaluationBatch(Batch):
    """What a piece of an evaluation's events file said."""

    pictures: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)


class EvaluationIngest(Ingest[EvaluationBatch]):
    """Reads the files of an evaluation's attempt."""

    def _new_batch(self) -> EvaluationBatch:
        return EvaluationBatch()

    def _read(self, line: bytes, batch: EvaluationBatch) -> None:
        match EvaluationEventLine.validate_json(line):
            case PictureDrawn() as event:
                self._read_picture(event, batch)
            case PictureAnswered() as event:
                row = event.model_dump(mode="json", exclude={"type", "time"})
                row["text"] = None if event.text is None else event.text.replace("\x00", "�")  # PostgreSQL keeps no NUL
                batch.answers.append({**row, "answered_at": event.time, "evaluation_id": self._claim.id})
                batch.counted["answers"] += 1
            case event:
                self._read_common(event, batch)

    def _read_picture(self, event: PictureDrawn, batch: EvaluationBatch) -> None:
        name = PictureName(index=event.index, image=event.image).file
        key = f"{self._prefix()}/{name}"
        try:
            source = artifact_transfer.inside(self._directory, f"{PICTURES}/{name}")
            artifact_transfer.store_file(self._database.artifacts, source, key, event.sha256)
        except (artifact_transfer.Rejected, FileNotFoundError) as error:
            batch.records.append(("picture_rejected", {"picture": name, "detail": str(error)}))
            return
        batch.files[key] = [key]
        row = event.model_dump(exclude={"type", "time"})
        batch.pictures.append({**row, "evaluation_id": self._claim.id, "key": key})
        batch.counted["pictures"] += 1

    def _write(self, session: Session, row: Evaluation, batch: EvaluationBatch) -> None:
        # An attempt that was superseded may have drawn and asked, too: what came first stays.
        upsert(session, EvaluationPicture, batch.pictures, _PICTURE, ())
        self._keep(session, select(EvaluationPicture.key).where(EvaluationPicture.evaluation_id == row.id), batch)
        upsert(session, EvaluationAnswer, batch.answers, (*_PICTURE, "number"), ())
        if batch.pictures or batch.answers:
            row.losses = 0
            if row.status in RESTING:  # it was scored when it came to rest, without these
                answers.conclude(session, row)
