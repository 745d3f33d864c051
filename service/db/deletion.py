"""Deletion of checkpoints and other stored files, which are marked as garbage and removed later by workers."""

import uuid
from collections.abc import Iterable, Sequence

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.contracts.status import TERMINAL
from service.db.models import Checkpoint, Evaluation, Garbage, Generation, Run

_INTACT = (Checkpoint.deleted_at.is_(None), Checkpoint.damaged.is_(False))


def use_of(session: Session, checkpoint: Checkpoint, by_its_run: bool = True) -> str | None:
    """Describe an unfinished job that needs the checkpoint, or return None if there is none.

    If `by_its_run`, this includes the checkpoint's own run, which may resume from it. The caller must have locked the
    row of the run, then that of the checkpoint. New users of a checkpoint lock it in share mode and check it again.
    """
    users = (
        (Run, Run.start_from == checkpoint.id),
        (Generation, Generation.spec["checkpoints"].contains([str(checkpoint.id)])),
        (Evaluation, Evaluation.checkpoint_id == checkpoint.id),
    )
    for kind, uses in users:
        user = session.scalar(select(kind.id).where(uses, kind.status.not_in(TERMINAL)).limit(1))
        if user is not None:
            return f"{kind.KIND} {user} uses it"
    if by_its_run and checkpoint.run_id is not None and checkpoint.id == _resume_point(session, checkpoint.run_id):
        return f"run {checkpoint.run_id} resumes from it"
    return None


def retire(session: Session, checkpoints: Iterable[Checkpoint]) -> None:
    """Mark checkpoints as deleted and their files as garbage."""
    for checkpoint in checkpoints:
        checkpoint.deleted_at = func.now()
        discard(session, [checkpoint.key])


def retire_old(session: Session, run_id: uuid.UUID, keep: int) -> list[int]:
    """Retire all checkpoints of a run except the `keep` newest, the best one and those in use.

    Returns the steps of the retired checkpoints. Damaged checkpoints are neither retired nor counted, because the store
    may be repaired.
    """
    intact = select(Checkpoint).where(Checkpoint.run_id == run_id, *_INTACT)
    locked = session.scalars(intact.order_by(Checkpoint.id).with_for_update()).all()
    newest_first = sorted(locked, key=lambda checkpoint: (checkpoint.step, checkpoint.attempt), reverse=True)
    values = {checkpoint.id: checkpoint.best_value for checkpoint in locked if checkpoint.best_value is not None}
    best = max(values, key=lambda id: values[id], default=None)
    old = [row for row in newest_first[keep:] if row.id != best and use_of(session, row) is None]
    retire(session, old)
    return [checkpoint.step for checkpoint in old]


def discard(session: Session, prefixes: Sequence[str]) -> None:
    """Mark everything under `prefixes` in the artifact store as garbage, to be removed after the commit."""
    if prefixes:
        rows = [{"prefix": prefix} for prefix in prefixes]
        session.execute(insert(Garbage).on_conflict_do_nothing(), rows)


def _resume_point(session: Session, run_id: uuid.UUID) -> uuid.UUID | None:
    """Return the id of the newest intact checkpoint of an unfinished run, or None if there is none."""
    own = select(Checkpoint.id).join(Run, Run.id == Checkpoint.run_id)
    unfinished = own.where(Run.id == run_id, Run.status.not_in(TERMINAL), *_INTACT)
    return session.scalar(unfinished.order_by(Checkpoint.step.desc(), Checkpoint.attempt.desc()).limit(1))
