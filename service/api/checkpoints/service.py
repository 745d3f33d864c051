"""List, show and delete checkpoints, and find their files."""

import uuid
from urllib.parse import quote

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.api.checkpoints.schemas import CheckpointFilters, CheckpointSummary, CheckpointView
from service.db import deletion
from service.db.artifacts import Stored
from service.db.models import Checkpoint, Run
from service.http.errors import Deleted, InUse, NotFound
from service.http.links import link
from service.http.pagination import Page, PageQuery, paged
from service.jobs import views


def list_of_run(session: Session, run_id: uuid.UUID, query: PageQuery) -> Page[CheckpointSummary]:
    """Return a page of a run's checkpoints, latest step first, except deleted ones. Raises NotFound."""
    views.find(session, Run, run_id)
    own = select(Checkpoint).where(Checkpoint.run_id == run_id, Checkpoint.deleted_at.is_(None))
    return paged(session, own, (Checkpoint.step, Checkpoint.id), query, CheckpointSummary.model_validate)


def list_all(session: Session, filters: CheckpointFilters) -> Page[CheckpointSummary]:
    """Return a page of the matching checkpoints, including imported ones, newest first."""
    query = select(Checkpoint).filter_by(**filters.given("model"))
    if filters.imported is not None:
        query = query.where(Checkpoint.run_id.is_(None) if filters.imported else Checkpoint.run_id.is_not(None))
    if not filters.deleted:
        query = query.where(Checkpoint.deleted_at.is_(None))
    return paged(session, query, (Checkpoint.id,), filters, CheckpointSummary.model_validate)


def delete(session: Session, id: uuid.UUID) -> None:
    """Delete the files of a checkpoint but keep its row. Raises NotFound, and InUse if a job uses the checkpoint."""
    run_id = _find(session, id).run_id
    if run_id is not None:  # lock the run before the checkpoint, so that a concurrent resumption sees the deletion
        session.get(Run, run_id, with_for_update={"key_share": True})
    row = _find(session, id, lock=True)
    if row.deleted_at is None:
        if (use := deletion.use_of(session, row)) is not None:
            raise InUse(f"Checkpoint {id} is in use: {use}")
        deletion.retire(session, [row])
    session.commit()


def show(session: Session, id: uuid.UUID) -> CheckpointView:
    """Return the full view of a checkpoint. Raises NotFound."""
    row = _find(session, id)
    files = [{**file, "url": link(f"/checkpoints/{id}/files/{quote(file['name'])}")} for file in row.manifest["files"]]
    return views.from_row(CheckpointView, row, files=files)


def file(session: Session, id: uuid.UUID, name: str) -> Stored:
    """Return the stored file of a checkpoint that has the given name in the manifest. Raises NotFound, Deleted."""
    stored = present(session, id).stored
    if name not in stored:
        raise NotFound(f"Checkpoint {id} has no file {name[:100]!r}; available: {', '.join(stored)}")
    return stored[name]


def present(session: Session, id: uuid.UUID) -> Checkpoint:
    """Return a checkpoint row. Raises NotFound, and Deleted if its files were deleted."""
    row = _find(session, id)
    if row.deleted_at is not None:
        raise Deleted(f"The files of checkpoint {id} were deleted at {row.deleted_at:%Y-%m-%d %H:%M:%S} UTC")
    return row


def _find(session: Session, id: uuid.UUID, lock: bool = False) -> Checkpoint:
    row = session.get(Checkpoint, id, with_for_update=lock or None, populate_existing=lock)
    if row is None:
        raise NotFound(f"Checkpoint {id} not found")
    return row
