"""What an evaluation's child says, as rows: images and answers."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.contracts.evaluations import (
    IMAGES,
    EvaluationEventLine,
    ImageAnswered,
    ImageDrawn,
    ImageName,
)
from service.contracts.status import RESTING
from service.db import evaluation_scores as answers
from service.db.models import Evaluation, EvaluationAnswer, EvaluationImage
from worker.jobs import artifact_transfer
from worker.jobs.ingest import Batch, Ingest, upsert

_IMAGE = ("evaluation_id", "index", "image_index")


@dataclass
class EvaluationBatch(Batch):
    """What a piece of an evaluation's events file said."""

    images: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)


class EvaluationIngest(Ingest[EvaluationBatch]):
    """Reads the files of an evaluation's attempt."""

    def _new_batch(self) -> EvaluationBatch:
        return EvaluationBatch()

    def _read(self, line: bytes, batch: EvaluationBatch) -> None:
        match EvaluationEventLine.validate_json(line):
            case ImageDrawn() as event:
                self._read_image(event, batch)
            case ImageAnswered() as event:
                row = event.model_dump(mode="json", exclude={"type", "time"})
                row["text"] = None if event.text is None else event.text.replace("\x00", "�")  # PostgreSQL keeps no NUL
                batch.answers.append({**row, "answered_at": event.time, "evaluation_id": self._claim.id})
                batch.counted["answers"] += 1
            case event:
                self._read_common(event, batch)

    def _read_image(self, event: ImageDrawn, batch: EvaluationBatch) -> None:
        name = ImageName(index=event.index, image_index=event.image_index).file
        key = f"{self._prefix()}/{name}"
        try:
            source = artifact_transfer.inside(self._directory, f"{IMAGES}/{name}")
            artifact_transfer.store_file(self._database.artifacts, source, key, event.sha256)
        except (artifact_transfer.Rejected, FileNotFoundError) as error:
            batch.records.append(("image_rejected", {"image": name, "detail": str(error)}))
            return
        batch.files[key] = [key]
        row = event.model_dump(exclude={"type", "time"})
        batch.images.append({**row, "evaluation_id": self._claim.id, "key": key})
        batch.counted["images"] += 1

    def _write(self, session: Session, row: Evaluation, batch: EvaluationBatch) -> None:
        # An attempt that was superseded may have drawn and asked, too: what came first stays.
        upsert(session, EvaluationImage, batch.images, _IMAGE, ())
        self._keep(session, select(EvaluationImage.key).where(EvaluationImage.evaluation_id == row.id), batch)
        upsert(session, EvaluationAnswer, batch.answers, (*_IMAGE, "number"), ())
        if batch.images or batch.answers:
            row.losses = 0
            if row.status in RESTING:  # it was scored when it came to rest, without these
                answers.conclude(session, row)
