"""Removing what nothing refers to any more: from the artifact store, from this machine's disk, from the database."""

import shutil
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from service.contracts.status import TERMINAL
from service.db import retention
from service.db.models import Checkpoint, Garbage, Generation, IdempotencyKey, Run
from service.db.session import Database
from worker.salvage import unread

log = structlog.get_logger()

_OWNERS: dict[str, type[Any]] = {"runs": Run, "generations": Generation, "checkpoints": Checkpoint}
"""By the beginning of an artifact's key: whose id comes next in it."""

_NEVER = datetime.max.replace(tzinfo=UTC)


def collect_garbage(database: Database) -> int:
    """Remove what was marked as garbage from the artifact store; how many prefixes that were.

    Each in a transaction of its own, whose lock keeps other workers from doing the same; what a broken one had removed
    stays removed.
    """
    removed = 0
    while True:
        with database.transaction() as session:
            oldest = select(Garbage).order_by(Garbage.created_at, Garbage.prefix).limit(1)
            row = session.scalars(oldest.with_for_update(skip_locked=True)).first()
            if row is not None:
                database.artifacts.delete(row.prefix)
                session.delete(row)
        if row is None:
            break
        removed += 1
    if removed:
        log.info("garbage.collected", prefixes=removed)
    return removed


def find_orphans(database: Database) -> list[str]:
    """Mark artifacts whose owner has no row, and return their prefixes: a crash may leave some before the row comes.

    Young ones are left alone, by the time in their owner's id: their row may be on its way.
    """
    with database.transaction() as session:
        now = session.scalars(select(func.now())).one()  # machines' clocks differ
    youngest = now - timedelta(seconds=database.settings.orphan_seconds)
    orphans: list[str] = []
    for beginning, owner in _OWNERS.items():
        names = {name for name in database.artifacts.names(beginning) if _made(name) < youngest}
        with database.transaction() as session:
            known = _known(session, owner, names)
            found = [f"{beginning}/{name}" for name in sorted(names - known)]
            retention.discard(session, found)
        orphans += found
    if orphans:
        log.info("orphans.found", prefixes=len(orphans), first=orphans[0])
    return orphans


def forget_requests(database: Database) -> None:
    """Forget the names that clients gave requests long ago."""
    old = func.now() - timedelta(seconds=database.settings.idempotency_seconds)
    with database.transaction() as session:
        session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < old))


def clear_local_files(database: Database) -> None:
    """Remove the files of deleted runs, and of runs that ended long ago, from this machine's working directory.

    What was not read yet, because the store refused it, stays.
    """
    root = database.settings.data_dir.absolute() / "work" / "runs"
    if not root.is_dir():
        return
    ids = {path.name for path in root.iterdir() if _made(path.name) < _NEVER}
    old = func.now() - timedelta(seconds=database.settings.orphan_seconds)
    with database.transaction() as session:
        known = _known(session, Run, ids)
        ended = select(Run.id).where(Run.id.in_(map(uuid.UUID, known)), Run.status.in_(TERMINAL), Run.ended_at < old)
        done = {str(id_) for id_ in session.scalars(ended)}
    done -= {str(run_id) for run_id, *_ in unread(database)}
    for name in (ids - known) | done:
        shutil.rmtree(root / name, ignore_errors=True)
        log.info("local_files.removed", run=name)


def _known(session: Session, owner: type[Any], names: set[str]) -> set[str]:
    return {str(id_) for id_ in session.scalars(select(owner.id).where(owner.id.in_(map(uuid.UUID, names))))}


def _made(name: str) -> datetime:
    """When the UUIDv7 `name` was made; the end of time for a name that is none, which is not ours to remove."""
    try:
        id_ = uuid.UUID(name)
    except ValueError:
        return _NEVER
    if id_.version != 7 or str(id_) != name:
        return _NEVER
    return datetime.fromtimestamp((id_.int >> 80) / 1000, UTC)
