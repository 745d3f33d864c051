"""The rules of prompt sets: taking a file, showing sets and their prompts, deleting what nothing needs."""

import hashlib
import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.api.idempotency import IdempotentRequest
from service.api.prompt_sets.reading import Reader
from service.api.prompt_sets.schemas import PromptSetFilters, PromptSetQuery, PromptSetUpload, PromptSetView, PromptView
from service.api.prompt_sets.splitting import split
from service.auth.principal import Principal
from service.contracts.catalog import Catalog, PromptSetEntry
from service.contracts.prompts import MAX_LINE_BYTES, Counts, Format, Split
from service.contracts.status import TERMINAL
from service.db import retention
from service.db.artifacts import ArtifactDamaged, ArtifactStore
from service.db.base import new_id
from service.db.models import PromptSet, Run
from service.db.session import Database
from service.http.errors import Deleted, FieldError, InUse, NameTaken, NotFound, WrongState, invalid
from service.http.pagination import Page, decode_cursor, encode_cursor

_NAME, _PLACE = TypeAdapter(tuple[str]), TypeAdapter(tuple[uuid.UUID, int, int])


class Part(NamedTuple):
    """A set to be: its file, and how many prompts are in it."""

    name: str
    file: Path
    prompts: int
    split: Split | None


def create(
    database: Database,
    catalog: Catalog,
    query: PromptSetQuery,
    format: Format,
    file: Path,
    principal: Principal,
    idempotency: IdempotentRequest,
) -> PromptSetUpload:
    """Normalise a received file, store what it holds as one or two sets. Raises Invalid, NameTaken, Deleted."""
    reader = Reader(format, database.settings.max_prompt_set_prompts, query.skip_bad)
    whole = file.with_name("normalised")
    counts = reader.read(file, whole)
    rows = [
        _stored(database.artifacts, part, query, format, counts, principal)
        for part in _parts(query, whole, counts.kept)
    ]
    with database.sessions() as session:
        try:
            upload = _add(session, catalog, rows, idempotency)
        except BaseException:
            session.rollback()
            _discard(session, rows)
            raise
        session.commit()  # where it raises, the rows may be there: if they are not, their files are found as orphans
        return _shown(session, upload, reader.problems if upload == rows[0].id else [])


def _parts(query: PromptSetQuery, whole: Path, prompts: int) -> list[Part]:
    if query.heldout is None:
        return [Part(query.name, whole, prompts, None)]
    files = whole.with_name("train"), whole.with_name("heldout")
    counts = split(whole, *files, query.heldout, query.seed)
    return [
        Part(f"{query.name}-{part}", file, count, Split(part=part, heldout=query.heldout, seed=query.seed))
        for part, file, count in zip(("train", "heldout"), files, counts, strict=True)
    ]


def _stored(
    artifacts: ArtifactStore, part: Part, query: PromptSetQuery, format: Format, counts: Counts, principal: Principal
) -> PromptSet:
    id = new_id()
    with part.file.open("rb") as reading:
        sha256 = hashlib.file_digest(reading, "sha256").hexdigest()
    stored = artifacts.put_file(part.file, f"prompt-sets/{id}/prompts.jsonl", sha256)
    return PromptSet(
        id=id,
        name=part.name,
        description=query.description,
        format=format,
        counts=counts.model_dump(mode="json"),
        split=part.split and part.split.model_dump(mode="json"),
        prompts=part.prompts,
        key=stored.key,
        sha256=stored.sha256,
        size=stored.size,
        created_by=principal.id,
    )


def _add(session: Session, catalog: Catalog, rows: Sequence[PromptSet], idempotency: IdempotentRequest) -> uuid.UUID:
    """Add the rows, to be committed; the upload's id, which is an earlier one's where this request was done before."""
    upload = rows[0].id
    if (known := idempotency.claim(session, upload)) is not None:
        _discard(session, rows)
        return known
    for row in rows:
        if row.name in {entry.name for entry in catalog.prompt_sets}:
            raise NameTaken(f"the catalog has a prompt set {row.name!r}; take another name")
        row.upload_id = upload
        session.add(row)
    names = " and ".join(repr(row.name) for row in rows)
    try:
        session.flush()
    except IntegrityError as error:
        detail = f"there is a prompt set {names} already; take another name, or delete it first"
        raise NameTaken(detail) from error
    return upload


def _shown(session: Session, upload: uuid.UUID, left_out: list[FieldError]) -> PromptSetUpload:
    made = select(PromptSet).where(PromptSet.upload_id == upload, PromptSet.deleted_at.is_(None))
    rows = session.scalars(made.order_by(PromptSet.name.desc())).all()
    if not rows:
        raise Deleted("the prompt sets that the first request with this Idempotency-Key made were deleted since")
    return PromptSetUpload(prompt_sets=[_view(row) for row in rows], left_out=[one.shortened() for one in left_out])


def _discard(session: Session, rows: Sequence[PromptSet]) -> None:
    """Have the files of rows that came to nothing removed."""
    retention.discard(session, [f"prompt-sets/{row.id}" for row in rows])
    session.commit()


def listing(session: Session, catalog: Catalog, filters: PromptSetFilters) -> Page[PromptSetView]:
    """The catalog's sets and the uploaded ones, by name. Raises Invalid."""
    after = "" if filters.cursor is None else decode_cursor(filters.cursor, _NAME)[0]
    name = PromptSet.name.collate("C")  # as Python sorts the catalog's
    uploaded = select(PromptSet).where(PromptSet.deleted_at.is_(None), name > after).order_by(name)
    views = [_view(row) for row in session.scalars(uploaded.limit(filters.limit + 1))]
    offered = {entry.name for entry in catalog.prompt_sets}
    views = [view for view in views if view.name not in offered]  # the catalog's goes before
    views += [_offered(entry) for entry in catalog.prompt_sets if entry.name > after]
    views.sort(key=lambda view: view.name)
    page = views[: filters.limit]
    return Page(items=page, next_cursor=encode_cursor(page[-1].name) if len(views) > len(page) else None)


def show(session: Session, catalog: Catalog, name: str) -> PromptSetView:
    """What a name means. Raises NotFound."""
    for entry in catalog.prompt_sets:
        if entry.name == name:
            return _offered(entry)
    return _view(_find(session, name))


def items(
    session: Session, artifacts: ArtifactStore, catalog: Catalog, name: str, filters: PromptSetFilters
) -> Page[PromptView]:
    """A page of an uploaded set's prompts, in the file's order. Raises NotFound, Invalid, ArtifactDamaged."""
    if name in {entry.name for entry in catalog.prompt_sets}:
        raise NotFound(f"the prompts of {name!r}, a set of the catalog, are known to the workers alone")
    row = _find(session, name)
    session.close()  # the store may take its time
    id, index, offset = (row.id, 0, 0) if filters.cursor is None else decode_cursor(filters.cursor, _PLACE)
    if id != row.id or not 0 <= offset < row.size:
        raise invalid(["query", "cursor"], f"this is no cursor of the set that {name!r} means now", "cursor_invalid")
    lines = _lines(artifacts, row, offset, filters.limit)
    try:
        page = [
            PromptView(index=index + at, **({"metadata": None} | json.loads(line))) for at, line in enumerate(lines)
        ]
    except (ValueError, TypeError) as error:
        if filters.cursor is not None:
            raise invalid(["query", "cursor"], "this is no cursor of this list", "cursor_invalid") from error
        raise ArtifactDamaged(f"{row.key} in the artifact store is no file of prompts") from error
    if not lines:
        raise ArtifactDamaged(f"{row.key} in the artifact store is no file of prompts")
    offset += sum(map(len, lines))
    following = encode_cursor(id, index + len(page), offset) if offset < row.size else None
    return Page(items=page, next_cursor=following)


def _lines(artifacts: ArtifactStore, row: PromptSet, offset: int, limit: int) -> list[bytes]:
    """Up to `limit` whole lines from byte `offset` on."""
    length = min(row.size - offset, limit * MAX_LINE_BYTES)
    data = b"".join(artifacts.stream(row.stored, offset, length))
    return [line + b"\n" for line in data.split(b"\n")[:-1][:limit]]  # a prompt may have other line ends in it


def delete(session: Session, catalog: Catalog, name: str) -> None:
    """Delete an uploaded set that no run needs: its file goes, its row stays. Raises NotFound, WrongState, InUse."""
    if name in {entry.name for entry in catalog.prompt_sets}:
        raise WrongState(f"prompt set {name!r} belongs to the catalog; only uploaded ones can be deleted", "of_catalog")
    row = _find(session, name, lock=True)
    needing = (Run.prompt_sets[name].astext == str(row.id), Run.status.not_in(TERMINAL))
    if (run := session.scalar(select(Run.id).where(*needing).limit(1))) is not None:
        raise InUse(f"prompt set {name!r} is in use: run {run}, which has not ended, needs it")
    row.deleted_at = func.now()
    retention.discard(session, [f"prompt-sets/{row.id}"])
    session.commit()


def _find(session: Session, name: str, lock: bool = False) -> PromptSet:
    query = select(PromptSet).where(PromptSet.name == name, PromptSet.deleted_at.is_(None))
    row = session.scalar(query.with_for_update() if lock else query)
    if row is None:
        raise NotFound(f"there is no prompt set {name!r}; GET /prompt-sets lists them")
    return row


def _view(row: PromptSet) -> PromptSetView:
    columns = ("id", "name", "description", "prompts", "size", "sha256", "format", "counts", "split", "created_at")
    return PromptSetView.model_validate({"origin": "uploaded"} | {name: getattr(row, name) for name in columns})


def _offered(entry: PromptSetEntry) -> PromptSetView:
    unknown = dict.fromkeys(PromptSetView.model_fields)
    said = {"name": entry.name, "description": entry.description, "origin": "catalog"}
    return PromptSetView.model_validate(unknown | said)
