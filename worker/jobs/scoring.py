"""One attempt at one scoring: what rewards say of images, recorded as it comes."""

import threading
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, select, update

from service.contracts.events import Progress
from service.contracts.scores import RewardValue
from service.db import events
from service.db.artifacts import ArtifactDamaged
from service.db.models import Score, ScoreImage
from service.db.session import Database
from worker.engine.inference.model_cache import WARM
from worker.jobs.claim import Claim, held
from worker.jobs.in_process import Attempt, patiently, serve

if TYPE_CHECKING:
    from worker.engine.inference.image_scorer import Scorer

_BATCH_PIXELS = 2**22
"""Pixels scored at once: eight images of 720×720."""
_MOST_IMAGES = 64

_scorer: "Scorer | None" = None


def score(database: Database, claim: Claim, stopping: threading.Event) -> None:
    """See a claimed scoring through. Never raises for what the request, a reward or another worker did."""
    serve(database, claim, stopping, _score)


def _score(attempt: Attempt) -> None:
    """Score every image, also those that an earlier attempt had scored: a worker's rewards may be others by now."""
    database, id_ = attempt.database, attempt.claim.id
    with database.transaction() as session:
        names: list[str] = session.get_one(Score, id_).spec["rewards"]
        own = select(ScoreImage).where(ScoreImage.score_id == id_).order_by(ScoreImage.number)
        images = session.scalars(own).all()
    scorer = _the_scorer()
    with attempt.loading():
        versions = [version.model_dump(mode="json") for version in scorer.versions(names)]
    _record(attempt, [], 0, len(images), rewards=versions)
    done = 0
    for batch in _batches(images):
        values = _values(database, scorer, names, batch)
        done += len(batch)
        _record(attempt, [(one.number, found) for one, found in zip(batch, values, strict=True)], done, len(images))
        attempt.got_on()
        attempt.check_wish()


def _batches(images: Sequence[ScoreImage]) -> Iterator[list[ScoreImage]]:
    """Images that follow each other and have one size, some at a time."""
    for (width, height), same in groupby(images, key=lambda one: (one.width, one.height)):
        alike = list(same)
        most = max(1, min(_MOST_IMAGES, _BATCH_PIXELS // (width * height)))
        yield from (alike[start : start + most] for start in range(0, len(alike), most))


def _values(
    database: Database, scorer: "Scorer", names: Sequence[str], batch: Sequence[ScoreImage]
) -> list[list[RewardValue]]:
    """The values of each image; where the store has lost or altered it, none, and why."""
    pngs: list[bytes] = []
    found: dict[int, list[RewardValue]] = {}
    whole: list[ScoreImage] = []
    for one in batch:
        try:
            pngs.append(patiently(database.artifacts.read, one.key, one.sha256))
            whole.append(one)
        except ArtifactDamaged as error:
            found[one.number] = [
                RewardValue(reward=name, status="failed", value=None, normalised=None, cause=str(error))
                for name in names
            ]
    if whole:
        scored = scorer.score(names, pngs, [one.prompt for one in whole])
        found |= {one.number: values for one, values in zip(whole, scored, strict=True)}
    return [found[one.number] for one in batch]


def _record(
    attempt: Attempt, scored: Sequence[tuple[int, list[RewardValue]]], done: int, total: int, **columns: Any
) -> None:
    """Write down the values of some images, with the progress made. Raises LeaseLost."""
    id_ = attempt.claim.id
    own = (ScoreImage.score_id == id_, ScoreImage.number == bindparam("of"))
    statement = update(ScoreImage.__table__).where(*own).values(values=bindparam("found"))  # type: ignore[arg-type]
    rows = [{"of": number, "found": [one.model_dump(mode="json") for one in values]} for number, values in scored]
    progress = Progress(step=done, max_steps=total, phase="reward")
    with attempt.database.transaction() as session:
        row: Any = held(session, attempt.claim)
        row.progress = progress.model_dump(mode="json", exclude={"type"})
        for name, value in columns.items():
            setattr(row, name, value)
        if rows:
            session.connection().execute(statement, rows)
        events.notify_job(session, Score.KIND, id_)


def _the_scorer() -> "Scorer":
    """The process's one scorer. Torch is first imported here."""
    global _scorer
    if _scorer is None:
        from worker.engine.inference.image_scorer import Scorer

        _scorer = Scorer(warm=WARM)
    return _scorer
