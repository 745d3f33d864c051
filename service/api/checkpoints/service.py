"""The rules of checkpoints."""

import uuid
from urllib.parse import quote

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.api.checkpoints.schemas import (
    AllCheckpointFilters,
    CheckpointFileView,
    CheckpointFilters,
    CheckpointSummary,
    CheckpointView,
)
from service.db import retention
from service.db.artifacts import Stored
from service.db.models import Checkpoint, Run
from service.http.errors import Deleted, InUse, NotFound
from service.http.pagination import Page, paged
from service.jobs import views


def listing(session: Session, run_id: uuid.UUID, filters: CheckpointFilters) -> Page[CheckpointSummary]:
    """A run's checkpoints that were not deleted, newest step first. Raises NotFound."""
    views.find(session, Run, run_id)
    own = select(Checkpoint).where(Checkpoint.run_id == run_id, Checkpoint.deleted_at.is_(None))
    return paged(session, own, (Checkpoint.step, Checkpoint.id), filters, CheckpointSummary.model_validate)


def listing_all(session: Session, filters: AllCheckpointFilters) -> Page[CheckpointSummary]:
    """The checkpoints that match, of all runs and imported ones, newest first."""
    query = select(Checkpoint)
    if filters.model is not None:
        query = query.where(Checkpoint.model == filters.model)
    if filters.imported is not None:
        query = query.where(Checkpoint.run_id.is_(None) if filters.imported else Checkpoint.run_id.is_not(None))
    if not filters.deleted:
        query = query.where(Checkpoint.deleted_at.is_(None))
    return paged(session, query, (Checkpoint.id,), filters, CheckpointSummary.model_validate)


def delete(session: Session, id: uuid.UUID) -> None:
    """Delete a checkpoint that nothing needs: its files go, its row stays. Raises NotFound, InUse."""
    made_by = _find(session, id).run_id
    if made_by is not None:  # first, as everybody does who wants both: a resumption must not overlook this
        session.get(Run, made_by, with_for_update={"key_share": True})
    row = session.get(Checkpoint, id, with_for_update=True, populate_existing=True)
    if row is None:
        raise NotFound(f"there is no checkpoint {id}")
    if row.deleted_at is None:
        if (use := retention.use_of(session, row)) is not None:
            raise InUse(f"checkpoint {id} is in use: {use}")
        retention.retire(session, [row])
    session.commit()


def show(session: Session, id: uuid.UUID) -> CheckpointView:
    """A checkpoint in full. Raises NotFound."""
    row = _find(session, id)
    files = [
        CheckpointFileView(**one, url=f"/checkpoints/{id}/files/{quote(one['name'])}") for one in row.manifest["files"]
    ]
    return CheckpointView(**CheckpointSummary.model_validate(row).model_dump(), files=files, manifest=row.manifest)


def file(session: Session, id: uuid.UUID, name: str) -> Stored:
    """One file of a checkpoint, in the store: the name is looked up in the manifest. Raises NotFound, Deleted."""
    stored = present(session, id).stored
    if name not in stored:
        raise NotFound(f"checkpoint {id} has no file of that name; it has {', '.join(stored)}")
    return stored[name]


def present(session: Session, id: uuid.UUID) -> Checkpoint:
    """A checkpoint whose files are there. Raises NotFound, Deleted."""
    row = _find(session, id)
    if row.deleted_at is not None:
        raise Deleted(f"checkpoint {id} was deleted at {row.deleted_at:%Y-%m-%d %H:%M:%S} UTC: its files are gone")
    return row


def _find(session: Session, id: uuid.UUID) -> Checkpoint:
    row = session.get(Checkpoint, id)
    if row is None:
        raise NotFound(f"there is no checkpoint {id}")
    return row
