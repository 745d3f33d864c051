"""Create prompt sets from uploaded files, list, show and delete them, and list their prompts."""

import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import TypeAdapter
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.api.idempotency import IdempotentRequest
from service.api.prompt_sets.prompt_file import normalize_file, split
from service.api.prompt_sets.schemas import PromptSetQuery, PromptSetUpload, PromptSetView, PromptView
from service.auth.principal import Principal
from service.contracts.catalog import Catalog, PromptSetEntry
from service.contracts.prompts import MAX_LINE_BYTES, Format, Split
from service.contracts.status import TERMINAL
from service.db import deletion
from service.db.artifacts import ArtifactDamaged, ArtifactStore
from service.db.base import new_id
from service.db.models import PromptSet, Run
from service.db.session import Database
from service.http.errors import Deleted, FieldError, InUse, NameTaken, NotFound, WrongState, invalid
from service.http.pagination import Page, PageQuery, decode_cursor, encode_cursor
from service.jobs import views

_NAME, _POSITION = TypeAdapter(tuple[str]), TypeAdapter(tuple[uuid.UUID, int, int])


def create(
    database: Database,
    catalog: Catalog,
    query: PromptSetQuery,
    format: Format,
    file: Path,
    principal: Principal,
    idempotency: IdempotentRequest,
) -> PromptSetUpload:
    """Normalize an uploaded file and store it as one or two sets.

    Raises Invalid, NameTaken, IdempotencyMismatch, or Deleted if the sets of a repeated request have been deleted.
    """
    normalized = file.with_name("normalized")
    counts, skipped = normalize_file(file, normalized, format, database.settings.max_prompt_set_prompts, query.skip_bad)
    rows = []
    for name, part_file, prompts, part in _parts(query, normalized, counts.kept):
        id = new_id()
        with part_file.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        stored = database.artifacts.put_file(part_file, f"prompt-sets/{id}/prompts.jsonl", sha256)
        row = PromptSet(
            id=id,
            name=name,
            description=query.description,
            format=format,
            counts=counts.model_dump(mode="json"),
            split=part and part.model_dump(mode="json"),
            prompts=prompts,
            **vars(stored),
            created_by=principal.id,
        )
        rows.append(row)
    with database.sessions() as session:
        try:
            upload = _add(session, catalog, rows, idempotency)
        except BaseException:
            session.rollback()
            _discard(session, rows)
            raise
        session.commit()  # after a failed commit the rows may exist; if not, the files are removed as orphans
        return _show_upload(session, upload, skipped if upload == rows[0].id else [])


def _parts(query: PromptSetQuery, whole: Path, prompts: int) -> Iterator[tuple[str, Path, int, Split | None]]:
    """Yield the name, file, number of prompts and split of each set to create."""
    if query.heldout is None:
        yield query.name, whole, prompts, None
        return
    train, heldout = whole.with_name("train"), whole.with_name("heldout")
    train_prompts, heldout_prompts = split(whole, train, heldout, query.heldout, query.seed)
    options = {"heldout": query.heldout, "seed": query.seed}
    yield f"{query.name}-train", train, train_prompts, Split(part="train", **options)
    yield f"{query.name}-heldout", heldout, heldout_prompts, Split(part="heldout", **options)


def _add(session: Session, catalog: Catalog, rows: Sequence[PromptSet], idempotency: IdempotentRequest) -> uuid.UUID:
    """Add the rows and return the upload id, or the id of the earlier upload for a repeated request.

    The caller commits. Raises NameTaken or IdempotencyMismatch.
    """
    upload = rows[0].id
    if (earlier := idempotency.claim(session, upload)) is not None:
        _discard(session, rows)
        return earlier
    for row in rows:
        if row.name in {entry.name for entry in catalog.prompt_sets}:
            raise NameTaken(f"The catalog has a prompt set {row.name!r}; use another name")
        row.upload_id = upload
        session.add(row)
    names = " and ".join(repr(row.name) for row in rows)
    try:
        session.flush()
    except IntegrityError as error:
        raise NameTaken(f"Prompt set {names} already exists; use another name, or delete it first") from error
    return upload


def _show_upload(session: Session, upload: uuid.UUID, skipped: list[FieldError]) -> PromptSetUpload:
    own = select(PromptSet).where(PromptSet.upload_id == upload, PromptSet.deleted_at.is_(None))
    rows = session.scalars(own.order_by(PromptSet.name.desc())).all()
    if not rows:
        raise Deleted("The prompt sets created by the first request with this Idempotency-Key have been deleted")
    return PromptSetUpload(prompt_sets=[_view(row) for row in rows], left_out=[error.shortened() for error in skipped])


def _discard(session: Session, rows: Sequence[PromptSet]) -> None:
    """Mark the files of rows that were not added as garbage, and commit."""
    deletion.discard(session, [f"prompt-sets/{row.id}" for row in rows])
    session.commit()


def list_prompt_sets(session: Session, catalog: Catalog, query: PageQuery) -> Page[PromptSetView]:
    """Return a page of the catalog and uploaded sets, sorted by name. Raises Invalid if the cursor is invalid."""
    after = "" if query.cursor is None else decode_cursor(query.cursor, _NAME)[0]
    name = PromptSet.name.collate("C")  # the order in which Python sorts the catalog names
    uploaded = select(PromptSet).where(PromptSet.deleted_at.is_(None), name > after).order_by(name)
    found = {row.name: _view(row) for row in session.scalars(uploaded.limit(query.limit + 1))}
    found |= {entry.name: _catalog_view(entry) for entry in catalog.prompt_sets if entry.name > after}
    page = [found[name] for name in sorted(found)[: query.limit]]
    return Page(items=page, next_cursor=encode_cursor(page[-1].name) if len(found) > len(page) else None)


def show(session: Session, catalog: Catalog, name: str) -> PromptSetView:
    """Return the prompt set with the given name. Raises NotFound if it does not exist."""
    for entry in catalog.prompt_sets:
        if entry.name == name:
            return _catalog_view(entry)
    return _view(_find(session, name))


def list_prompts(
    session: Session, artifacts: ArtifactStore, catalog: Catalog, name: str, query: PageQuery
) -> Page[PromptView]:
    """Return a page of the prompts of an uploaded set in file order.

    Raises NotFound, Invalid if the cursor is invalid, or ArtifactDamaged if the stored file is invalid.
    """
    if name in {entry.name for entry in catalog.prompt_sets}:
        raise NotFound(f"Prompt set {name!r} belongs to the catalog; only the prompts of uploaded sets can be listed")
    row = _find(session, name)
    session.close()  # the artifact store may be slow
    id, index, offset = (row.id, 0, 0) if query.cursor is None else decode_cursor(query.cursor, _POSITION)
    if id != row.id or not 0 <= offset < row.size:
        raise invalid(["query", "cursor"], f"Invalid cursor: prompt set {name!r} was replaced", "cursor_invalid")
    lines = _lines(artifacts, row, offset, query.limit)
    try:
        page = [
            PromptView(index=number, **({"metadata": None} | json.loads(line)))
            for number, line in enumerate(lines, index)
        ]
    except (ValueError, TypeError) as error:
        if query.cursor is not None:
            raise invalid(["query", "cursor"], "Invalid cursor", "cursor_invalid") from error
        raise ArtifactDamaged(f"{row.key} in the artifact store is not a valid prompt file") from error
    if not lines:
        raise ArtifactDamaged(f"{row.key} in the artifact store is not a valid prompt file")
    offset += sum(map(len, lines))
    following = encode_cursor(id, index + len(page), offset) if offset < row.size else None
    return Page(items=page, next_cursor=following)


def _lines(artifacts: ArtifactStore, row: PromptSet, offset: int, limit: int) -> list[bytes]:
    """Return up to `limit` complete lines, starting at byte `offset`."""
    length = min(row.size - offset, limit * MAX_LINE_BYTES)
    data = b"".join(artifacts.stream(row.stored, offset, length))
    # Not splitlines: a prompt may contain other line separators.
    return [line + b"\n" for line in data.split(b"\n")[:-1][:limit]]


def delete(session: Session, catalog: Catalog, name: str) -> None:
    """Delete the file of an uploaded set and release its name. The row is kept.

    Raises NotFound, WrongState for a catalog set, or InUse if a run that has not ended uses the set.
    """
    if name in {entry.name for entry in catalog.prompt_sets}:
        raise WrongState(f"Prompt set {name!r} belongs to the catalog; only uploaded sets can be deleted", "of_catalog")
    row = _find(session, name, lock=True)
    needing = (Run.prompt_sets[name].astext == str(row.id), Run.status.not_in(TERMINAL))
    if (run := session.scalar(select(Run.id).where(*needing).limit(1))) is not None:
        raise InUse(f"Prompt set {name!r} is in use by run {run}, which has not ended")
    row.deleted_at = func.now()
    deletion.discard(session, [f"prompt-sets/{row.id}"])
    session.commit()


def _find(session: Session, name: str, lock: bool = False) -> PromptSet:
    query = select(PromptSet).where(PromptSet.name == name, PromptSet.deleted_at.is_(None))
    row = session.scalar(query.with_for_update() if lock else query)
    if row is None:
        raise NotFound(f"Prompt set {name!r} not found; GET /prompt-sets lists all prompt sets")
    return row


def _view(row: PromptSet) -> PromptSetView:
    return views.from_row(PromptSetView, row, origin="uploaded")


def _catalog_view(entry: PromptSetEntry) -> PromptSetView:
    fields = {"name": entry.name, "description": entry.description, "origin": "catalog"}
    return PromptSetView.model_validate(dict.fromkeys(PromptSetView.model_fields) | fields)
