"""Removal of unreferenced artifacts, of local files of ended jobs, and of expired idempotency keys."""

import hashlib
import shutil
import tempfile
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import ColumnElement, and_, delete, func, select
from sqlalchemy.orm import Session

from service.contracts.status import TERMINAL
from service.db import deletion
from service.db.artifacts import ArtifactDamaged, ArtifactStore
from service.db.models import Checkpoint, Deployment, Garbage, IdempotencyKey, Job, PromptSet
from service.db.session import Database
from worker.jobs.claim import JobType
from worker.jobs.registry import JOB_TYPES
from worker.maintenance.recovery import unread

log = structlog.get_logger()

_OWNER_KEY = "deployment"
"""Key of the file in the store that identifies the database that the store belongs to."""
_NEVER = datetime.max.replace(tzinfo=UTC)


class ForeignStore(Exception):
    """The store belongs to another installation, whose database may refer to its files."""


def collect_garbage(database: Database) -> int:
    """Remove artifacts that are marked as garbage, and return the number of removed prefixes.

    Each prefix is removed in its own transaction, which locks out other workers. A failure affects only one prefix.
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
    """Mark artifacts whose owner has no row, for example after a crash, and return their prefixes.

    Artifacts are skipped if the time in their owner's id is recent, because the row may not be committed yet. Raises
    ForeignStore if the store belongs to another database, which may have rows for the artifacts.
    """
    check_owner(database)
    with database.transaction() as session:
        now = session.scalars(select(func.now())).one()  # machines' clocks differ
    newest = now - timedelta(seconds=database.settings.orphan_seconds)
    owners: dict[str, type[Any]] = {job_type.model.FOLDER: job_type.model for job_type in JOB_TYPES.values()}
    owners |= {"checkpoints": Checkpoint, "prompt-sets": PromptSet}
    orphans: list[str] = []
    for folder, owner in owners.items():
        names = {name for name in database.artifacts.names(folder) if _created_at(name) < newest}
        with database.transaction() as session:
            known = session.scalars(select(owner.id).where(owner.id.in_(map(uuid.UUID, names))))
            found = [f"{folder}/{name}" for name in sorted(names - set(map(str, known)))]
            deletion.discard(session, found)
        orphans += found
    if orphans:
        log.info("orphans.found", prefixes=len(orphans), first=orphans[0])
    return orphans


def find_leftovers(database: Database) -> list[str]:
    """Mark artifacts of ended jobs that have no row because their worker was lost, and return their prefixes.

    Each job is checked once or twice, `orphan_seconds` after its end. Raises ForeignStore if the store belongs to
    another database.
    """
    check_owner(database)
    newest = _long_ago(database)
    oldest = newest - timedelta(seconds=2 * database.settings.collect_seconds)
    leftovers: list[str] = []
    for job_type in JOB_TYPES.values():
        if job_type.artifact_pattern is None:
            continue
        with database.transaction() as session:
            ended = job_type.model.ended_at.between(oldest, newest)
            ids = session.scalars(select(job_type.model.id).where(ended)).all()
        for id_ in ids:
            prefixes = _matching(database.artifacts, f"{job_type.model.FOLDER}/{id_}", job_type.artifact_pattern)
            leftovers += _mark_unnamed(database, job_type, id_, prefixes)
    return leftovers


def _matching(store: ArtifactStore, prefix: str, pattern: str) -> list[str]:
    """Return the prefixes in the store below `prefix` that match a pattern of names and `*` wildcards."""
    prefixes = [prefix]
    for part in pattern.split("/"):
        prefixes = [f"{one}/{name}" for one in prefixes for name in (store.names(one) if part == "*" else [part])]
    return prefixes


def _mark_unnamed(database: Database, job_type: JobType, id_: uuid.UUID, prefixes: list[str]) -> list[str]:
    """Mark and return the `prefixes` of an ended job that no row refers to, unless the job was resumed.

    If a worker later ingests files of the ended job, it removes the mark when it writes the row, under the same lock.
    """
    job = job_type.model
    with database.transaction() as session:
        ended = select(job.id).where(job.id == id_, _ended_long_ago(database, job))
        if session.scalar(ended.with_for_update(key_share=True)) is None:
            return []
        keys = set(session.scalars(job_type.artifact_keys(id_)).all())
        unnamed = [one for one in prefixes if one not in keys and not any(key.startswith(f"{one}/") for key in keys)]
        deletion.discard(session, unnamed)
    return unnamed


def _long_ago(database: Database) -> ColumnElement[datetime]:
    """Return the time before which workers have written rows for everything that they stored."""
    return func.now() - timedelta(seconds=database.settings.orphan_seconds)


def _ended_long_ago(database: Database, job: type[Job]) -> ColumnElement[bool]:
    return and_(job.status.in_(TERMINAL), job.ended_at < _long_ago(database))


def check_owner(database: Database) -> None:
    """Raise ForeignStore if the store belongs to another database.

    A store without an owner is assigned to this database.
    """
    with database.transaction() as session:
        own = str(_deployment(session).id)
    if not database.artifacts.exists(_OWNER_KEY):
        with tempfile.NamedTemporaryFile("w", encoding="ascii") as file:
            file.write(own)
            file.flush()
            database.artifacts.put_file(Path(file.name), _OWNER_KEY)
        return
    try:
        database.artifacts.read(_OWNER_KEY, hashlib.sha256(own.encode()).hexdigest())
    except ArtifactDamaged as error:
        raise ForeignStore(
            f"the artifact store belongs to another database, not to this one ({own}), so nothing is removed. Fix "
            f"G2RPO_DATABASE_URL or G2RPO_STORAGE_URL, or remove the file {_OWNER_KEY} from the store if it belongs to "
            "this database"
        ) from error


def _deployment(session: Session) -> Deployment:
    """Return the row that identifies this installation, or create it if the database has none."""
    found = session.scalars(select(Deployment).order_by(Deployment.created_at, Deployment.id)).first()
    if found is None:
        found = Deployment()
        session.add(found)
        session.flush()
    return found


def delete_idempotency_keys(database: Database) -> None:
    """Delete expired idempotency keys."""
    old = func.now() - timedelta(seconds=database.settings.idempotency_seconds)
    with database.transaction() as session:
        session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < old))


def clear_local_files(database: Database) -> None:
    """Remove the local files of deleted and long-ended jobs, except those of jobs with unread events.

    Raises ForeignStore if the store belongs to another database, because the files may also belong to that database.
    """
    check_owner(database)
    for job_type in JOB_TYPES.values():
        root = database.settings.data_dir.absolute() / "work" / job_type.model.FOLDER
        if not root.is_dir():
            continue
        waiting = {id_ for id_, *_ in unread(database, job_type.model)}
        for path in root.iterdir():
            if _created_at(path.name) < _NEVER and (id_ := uuid.UUID(path.name)) not in waiting:
                _clear(database, job_type.model, id_, path)


def _clear(database: Database, job: type[Job], id_: uuid.UUID, path: Path) -> None:
    aside = path.with_name(f"removed-{id_}")
    with database.transaction() as session:  # the lock prevents a resumption until the files are moved
        ended = select(job.id, _ended_long_ago(database, job).label("ended")).where(job.id == id_)
        row = session.execute(ended.with_for_update()).one_or_none()
        if row is not None and not row.ended:
            return
        path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
    log.info("local_files.removed", **{job.KIND: str(id_)})


def _created_at(name: str) -> datetime:
    """Return the time in the UUIDv7 `name`, or _NEVER for other names, whose files are never removed."""
    try:
        id_ = uuid.UUID(name)
    except ValueError:
        return _NEVER
    if id_.version != 7 or str(id_) != name:
        return _NEVER
    return datetime.fromtimestamp((id_.int >> 80) / 1000, UTC)
