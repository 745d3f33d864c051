"""Scoring jobs: rewards of given images, recorded as they are computed."""

import functools
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, select, update

from service.contracts.scores import RewardValue
from service.db.artifacts import ArtifactDamaged
from service.db.models import Score, ScoreImage
from worker.engine.inference.model_cache import MODEL_CACHE
from worker.jobs.in_process import InProcess, InProcessJobType

if TYPE_CHECKING:
    from worker.engine.inference.image_scorer import ImageScorer

_BATCH_PIXELS = 2**22
"""Maximum number of pixels per batch: eight images of 720×720."""
_MAX_BATCH_IMAGES = 16
"""Bounds the time of a batch, which a cancellation cannot interrupt within a reward."""


class ScoreJobType(InProcessJobType):
    """Job type for scoring images in the worker's process."""

    model = Score

    def work(self, execution: InProcess) -> None:
        """Score all images, including those scored by an earlier attempt, because this worker's rewards may differ."""
        id_ = execution.claim.id
        with execution.database.transaction() as session:
            names: list[str] = session.get_one(Score, id_).spec["rewards"]
            own = select(ScoreImage).where(ScoreImage.score_id == id_).order_by(ScoreImage.number)
            images = session.scalars(own).all()
        scorer = _scorer()
        with execution.loading():
            versions = [version.model_dump(mode="json") for version in scorer.versions(names)]
        _record(execution, [], 0, len(images), rewards=versions)
        done = 0
        for batch in _batches(images):
            with execution.cancellable():
                values = _score(execution, scorer, names, batch)
            done += len(batch)
            numbers = [one.number for one in batch]
            _record(execution, list(zip(numbers, values, strict=True)), done, len(images))
            execution.heartbeat()
            execution.check_cancelled()


def _batches(images: Sequence[ScoreImage]) -> Iterator[list[ScoreImage]]:
    """Yield batches of consecutive images with equal size."""
    for (width, height), group in groupby(images, key=lambda one: (one.width, one.height)):
        equal = list(group)
        size = max(1, min(_MAX_BATCH_IMAGES, _BATCH_PIXELS // (width * height)))
        yield from (equal[start : start + size] for start in range(0, len(equal), size))


def _score(
    execution: InProcess, scorer: "ImageScorer", names: Sequence[str], batch: Sequence[ScoreImage]
) -> list[list[RewardValue]]:
    """Compute the rewards of each image. For an image that is missing or damaged in the store, all rewards fail."""
    pngs: list[bytes] = []
    found: dict[int, list[RewardValue]] = {}
    undamaged: list[ScoreImage] = []
    for one in batch:
        try:
            pngs.append(execution.attempt.retry(execution.database.artifacts.read, one.key, one.sha256))
            undamaged.append(one)
        except ArtifactDamaged as error:
            found[one.number] = [
                RewardValue(reward=name, status="failed", value=None, normalized=None, cause=str(error))
                for name in names
            ]
    if undamaged:
        scored = scorer.score(names, pngs, [one.prompt for one in undamaged], execution.heartbeat)
        found |= {one.number: values for one, values in zip(undamaged, scored, strict=True)}
    return [found[one.number] for one in batch]


def _record(
    execution: InProcess, scored: Sequence[tuple[int, list[RewardValue]]], done: int, total: int, **columns: Any
) -> None:
    """Write the given images' values, the progress, and other job columns.

    Raises LeaseLost if the claim is no longer valid.
    """
    own = (ScoreImage.score_id == execution.claim.id, ScoreImage.number == bindparam("of"))
    statement = update(ScoreImage.__table__).where(*own).values(values=bindparam("found"))  # type: ignore[arg-type]
    rows = [{"of": number, "found": [one.model_dump(mode="json") for one in values]} for number, values in scored]
    with execution.database.transaction() as session:
        row = execution.record_progress(session, done, total, "reward")
        for name, value in columns.items():
            setattr(row, name, value)
        if rows:
            session.connection().execute(statement, rows)


@functools.cache
def _scorer() -> "ImageScorer":
    """Return the image scorer of this process. torch is imported here for the first time."""
    from worker.engine.inference.image_scorer import ImageScorer

    return ImageScorer(cache=MODEL_CACHE)
