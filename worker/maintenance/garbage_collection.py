"""Removing what nothing refers to any more: from the artifact store, from this machine's disk, from the database."""

import hashlib
import shutil
import tempfile
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Select, and_, delete, func, select
from sqlalchemy.orm import Session

from service.contracts.status import TERMINAL
from service.db import retention
from service.db.artifacts import ArtifactDamaged
from service.db.models import (
    Checkpoint,
    Deployment,
    Evaluation,
    EvaluationImage,
    Garbage,
    Generation,
    GenerationImage,
    IdempotencyKey,
    PromptSet,
    Run,
    Score,
    SupervisedJob,
)
from service.db.session import Database
from worker.maintenance.recovery import unread

log = structlog.get_logger()

_OWNERS: dict[str, type[Any]] = {
    "runs": Run,
    "generations": Generation,
    "evaluations": Evaluation,
    "checkpoints": Checkpoint,
    "prompt-sets": PromptSet,
    "scores": Score,
}
"""By the beginning of an artifact's key: whose id comes next in it."""
_LOCAL: tuple[type[SupervisedJob | Generation], ...] = (Run, Evaluation, Generation)
"""Whose files may be on a worker's machine."""

_OWNER_KEY = "deployment"
"""The file of the store that says which database knows what is in it."""
_NEVER = datetime.max.replace(tzinfo=UTC)


class ForeignStore(Exception):
    """The store, or the disk, holds what another installation made: another database knows what it is."""


def collect_garbage(database: Database) -> int:
    """Remove what was marked as garbage from the artifact store; how many prefixes that were.

    Each in a transaction of its own, whose lock keeps other workers from doing the same; what a broken one had removed
    stays removed, and what cannot be removed does not keep the rest.
    """
    with database.transaction() as session:
        marked = session.scalars(select(Garbage.prefix).order_by(Garbage.created_at, Garbage.prefix)).all()
    removed = 0
    for prefix in marked:
        try:
            removed += _collect(database, prefix)
        except OSError as error:
            log.warning("garbage.not_collected", prefix=prefix, error=str(error).splitlines()[0])
    if removed:
        log.info("garbage.collected", prefixes=removed)
    return removed


def _collect(database: Database, prefix: str) -> bool:
    with database.transaction() as session:
        row = session.get(Garbage, prefix, with_for_update={"skip_locked": True})
        if row is None:
            return False
        database.artifacts.delete(prefix)
        session.delete(row)
    return True


def find_orphans(database: Database) -> list[str]:
    """Mark artifacts whose owner has no row, and return their prefixes: a crash may leave some before the row comes.

    Young ones are left alone, by the time in their owner's id: their row may be on its way. Raises ForeignStore: what
    has no row in this database may have one in another.
    """
    check_ours(database)
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


def find_leftovers(database: Database) -> list[str]:
    """Mark what lost workers stored for lately ended jobs and no row came to name; the prefixes. Raises ForeignStore.

    Each job is looked at once or twice, when it has been over for `orphan_seconds`.
    """
    check_ours(database)
    settings, store = database.settings, database.artifacts
    newest = _long_ago(database)
    oldest = newest - timedelta(seconds=2 * settings.collect_seconds)
    leftovers: list[str] = []
    with database.transaction() as session:
        runs = session.scalars(select(Run.id).where(Run.ended_at.between(oldest, newest))).all()
        generations = session.scalars(select(Generation.id).where(Generation.ended_at.between(oldest, newest))).all()
        evaluations = session.scalars(select(Evaluation.id).where(Evaluation.ended_at.between(oldest, newest))).all()
    for id_ in evaluations:
        places = [f"evaluations/{id_}/{attempt}" for attempt in store.names(f"evaluations/{id_}")]
        parts = [f"{place}/{name}" for place in places for name in store.names(place)]
        drawn = select(EvaluationImage.key).where(EvaluationImage.evaluation_id == id_)
        leftovers += _mark_unnamed(database, Evaluation, id_, parts, drawn)
    for id_ in generations:
        parts = [f"generations/{id_}/{name}" for name in store.names(f"generations/{id_}")]
        named = select(GenerationImage.key).where(GenerationImage.generation_id == id_)
        leftovers += _mark_unnamed(database, Generation, id_, parts, named)
    for id_ in runs:
        places = [f"runs/{id_}/{attempt}/checkpoints" for attempt in store.names(f"runs/{id_}")]
        parts = [f"{place}/{step}" for place in places for step in store.names(place)]
        named = select(Checkpoint.key).where(Checkpoint.run_id == id_, Checkpoint.deleted_at.is_(None))
        leftovers += _mark_unnamed(database, Run, id_, parts, named)
    return leftovers


def _mark_unnamed(
    database: Database, job: type[Run | Generation | Evaluation], id_: uuid.UUID, parts: list[str], named: Select[str]
) -> list[str]:
    """Mark those of a job's `parts` that no row names, unless it goes on by now: the next row may be for one of them.

    Who reads a job that has ended takes a mark back with the row that it writes, under the same lock.
    """
    done = and_(job.status.in_(TERMINAL), job.ended_at < _long_ago(database))
    with database.transaction() as session:
        if session.scalar(select(job.id).where(job.id == id_, done).with_for_update(key_share=True)) is None:
            return []
        keys = set(session.scalars(named).all())
        unnamed = [part for part in parts if part not in keys and not any(key.startswith(f"{part}/") for key in keys)]
        retention.discard(session, unnamed)
    return unnamed


def _long_ago(database: Database) -> ColumnElement[datetime]:
    """So long that whoever was at work on it then has recorded by now what it stored."""
    return func.now() - timedelta(seconds=database.settings.orphan_seconds)


def check_ours(database: Database) -> None:
    """Raise ForeignStore unless the store belongs to this database; a store without an owner gets this one."""
    with database.transaction() as session:
        ours = str(_deployment(session).id)
    if not database.artifacts.exists(_OWNER_KEY):
        with tempfile.NamedTemporaryFile("w", encoding="ascii") as file:
            file.write(ours)
            file.flush()
            database.artifacts.put_file(Path(file.name), _OWNER_KEY)
        return
    try:
        database.artifacts.read(_OWNER_KEY, hashlib.sha256(ours.encode()).hexdigest())
    except ArtifactDamaged as error:
        raise ForeignStore(
            f"the artifact store belongs to another database than this one ({ours}): nothing is collected in it. Mend "
            f"G2RPO_DATABASE_URL or G2RPO_STORAGE_URL; if the store is really this one's, remove {_OWNER_KEY} from it"
        ) from error


def _deployment(session: Session) -> Deployment:
    """This installation; a database that was emptied is another one."""
    found = session.scalars(select(Deployment).order_by(Deployment.created_at, Deployment.id)).first()
    if found is None:
        found = Deployment()
        session.add(found)
        session.flush()
    return found


def forget_requests(database: Database) -> None:
    """Forget the names that clients gave requests long ago."""
    old = func.now() - timedelta(seconds=database.settings.idempotency_seconds)
    with database.transaction() as session:
        session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < old))


def clear_local_files(database: Database) -> None:
    """Remove the files of deleted jobs, and of jobs that ended long ago, from this machine's working directory.

    What was not read yet, because the store refused it, stays. Raises ForeignStore: this may not be our database.
    """
    check_ours(database)
    for job in _LOCAL:
        root = database.settings.data_dir.absolute() / "work" / job.FOLDER
        if not root.is_dir():
            continue
        waiting = {id_ for id_, *_ in unread(database, job)} if issubclass(job, SupervisedJob) else set()
        for path in root.iterdir():
            if _made(path.name) < _NEVER and (id_ := uuid.UUID(path.name)) not in waiting:
                _clear(database, job, id_, path)


def _clear(database: Database, job: type[SupervisedJob | Generation], id_: uuid.UUID, path: Path) -> None:
    done = and_(job.status.in_(TERMINAL), job.ended_at < _long_ago(database))
    aside = path.with_name(f"removed-{id_}")
    with database.transaction() as session:  # the lock keeps it from being resumed until its files are out of the way
        row = session.execute(select(job.id, done.label("done")).where(job.id == id_).with_for_update()).one_or_none()
        if row is not None and not row.done:
            return
        path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
    log.info("local_files.removed", **{job.KIND: str(id_)})


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
