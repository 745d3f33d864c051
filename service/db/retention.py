"""Which checkpoints may go, and letting them go: a row is marked, its files become garbage that workers collect."""

import uuid
from collections.abc import Iterable, Sequence

from sqlalchemy import exists, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.contracts.status import TERMINAL
from service.db.models import Checkpoint, Evaluation, Garbage, Generation, Run


def use_of(session: Session, checkpoint: Checkpoint, by_its_run: bool = True) -> str | None:
    """What still needs the checkpoint, in words; None where nothing does. `by_its_run`: or the run that made it.

    The caller has locked the row, and that of its run first: whoever is about to use the checkpoint takes a shared lock
    on it, and then looks at it again.
    """
    started = select(Run.id).where(Run.start_from == checkpoint.id, Run.status.not_in(TERMINAL)).limit(1)
    if (run := session.scalar(started)) is not None:
        return f"run {run} starts from it"
    drawn = Generation.spec["checkpoints"].contains([str(checkpoint.id)])
    drawing = select(Generation.id).where(drawn, Generation.status.not_in(TERMINAL)).limit(1)
    if (generation := session.scalar(drawing)) is not None:
        return f"generation {generation} draws from it"
    judged = (Evaluation.checkpoint_id == checkpoint.id, Evaluation.status.not_in(TERMINAL))
    if (evaluation := session.scalar(select(Evaluation.id).where(*judged).limit(1))) is not None:
        return f"evaluation {evaluation} judges it"
    if by_its_run and checkpoint.run_id is not None and checkpoint.id == _resume_point(session, checkpoint.run_id):
        return f"run {checkpoint.run_id} goes on from it"
    return None


def retire(session: Session, checkpoints: Iterable[Checkpoint]) -> None:
    """Mark checkpoints as deleted, and their files as garbage."""
    for checkpoint in checkpoints:
        checkpoint.deleted_at = func.now()
        discard(session, [checkpoint.key])


def retire_old(session: Session, run_id: uuid.UUID, keep: int) -> list[int]:
    """Retire all but the run's `keep` newest whole checkpoints, its best and those in use; the steps of those retired.

    Damaged ones stay, and do not count: the store may be mended.
    """
    own = select(Checkpoint).where(
        Checkpoint.run_id == run_id, Checkpoint.deleted_at.is_(None), Checkpoint.damaged.is_(False)
    )
    locked = session.scalars(own.order_by(Checkpoint.id).with_for_update()).all()
    newest_first = sorted(locked, key=lambda one: (one.step, one.attempt), reverse=True)
    values = {one.id: one.best_value for one in locked if one.best_value is not None}
    best = max(values, key=lambda id: values[id], default=None)
    old = [one for one in newest_first[keep:] if one.id != best and use_of(session, one) is None]
    retire(session, old)
    return [one.step for one in old]


def discard(session: Session, prefixes: Sequence[str]) -> None:
    """Have everything under these prefixes of the artifact store removed, soon after the commit."""
    if prefixes:
        rows = [{"prefix": prefix} for prefix in prefixes]
        session.execute(insert(Garbage).on_conflict_do_nothing(), rows)


def _resume_point(session: Session, run_id: uuid.UUID) -> uuid.UUID | None:
    """The newest checkpoint of a run that has not ended."""
    going = exists().where(Run.id == run_id, Run.status.not_in(TERMINAL))
    whole = (Checkpoint.deleted_at.is_(None), Checkpoint.damaged.is_(False))
    own = select(Checkpoint.id).where(Checkpoint.run_id == run_id, *whole, going)
    return session.scalar(own.order_by(Checkpoint.step.desc(), Checkpoint.attempt.desc()).limit(1))
