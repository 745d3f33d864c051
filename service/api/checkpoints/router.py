"""`/runs/{run_id}/checkpoints` and `/checkpoints`: saved policies."""

import pathlib
import tempfile
import uuid
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.checkpoints import archive, download, imports, service
from service.api.checkpoints.schemas import (
    AllCheckpointFilters,
    ArchiveQuery,
    CheckpointFilters,
    CheckpointSummary,
    CheckpointView,
    ImportQuery,
)
from service.api.dependencies import CatalogDep, DatabaseDep, SessionDep
from service.api.idempotency import StreamedIdempotentRequestDep
from service.api.routing import ApiRoute, declare
from service.api.runs.router import LOCATION
from service.auth.principal import PrincipalDep, Scope
from service.http.errors import UnsupportedMediaType, problems
from service.http.openapi_links import CHECKPOINT, FIRST_ID, ID, links
from service.http.pagination import Page
from service.http.uploads import receive

router = APIRouter(tags=["checkpoints"], route_class=ApiRoute)

FileName = Annotated[str, Path(description="A name of the manifest.", examples=["pytorch_lora_weights.safetensors"])]
MEDIA_TYPE = "application/octet-stream"
FILES = links(
    "downloadCheckpointFile",
    "headCheckpointFile",
    checkpoint_id=ID,
    name="$response.body#/files/0/name",
)
_BYTES = {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}


@router.get(
    "/runs/{run_id}/checkpoints",
    operation_id="listCheckpoints",
    summary="Checkpoints of a run",
    responses=problems(404, 422),
)
@declare(Scope.READ, cacheable=True)
def list_checkpoints(
    run_id: uuid.UUID, filters: Annotated[CheckpointFilters, Query()], session: SessionDep
) -> Page[CheckpointSummary]:
    """A run's checkpoints, newest step first."""
    return service.listing(session, run_id, filters)


@router.get(
    "/checkpoints",
    operation_id="listAllCheckpoints",
    summary="All checkpoints",
    responses={200: {"links": links(*CHECKPOINT, checkpoint_id=FIRST_ID)}, **problems(422)},
)
@declare(Scope.READ, cacheable=True)
def list_all_checkpoints(
    filters: Annotated[AllCheckpointFilters, Query()], session: SessionDep
) -> Page[CheckpointSummary]:
    """Checkpoints of all runs and imported ones, newest first."""
    return service.listing_all(session, filters)


@router.post(
    "/checkpoints",
    status_code=201,
    operation_id="importCheckpoint",
    summary="Import a LoRA",
    responses={
        201: {"headers": LOCATION, "links": links(*CHECKPOINT, checkpoint_id=ID)},
        **problems(409, 413, 415, 422),
    },
    openapi_extra={"requestBody": {"required": True, **_BYTES}},
)
@declare(Scope.WRITE, max_body="max_upload_bytes")
async def import_checkpoint(
    query: Annotated[ImportQuery, Query()],
    request: Request,
    response: Response,
    database: DatabaseDep,
    catalog: CatalogDep,
    principal: PrincipalDep,
    idempotency: StreamedIdempotentRequestDep,
) -> CheckpointView:
    """Send a LoRA file of diffusers' format (safetensors) as the body; runs can start from it, and images be drawn.

    Its layers must be ones that the model takes a LoRA on. Layers it does not have stay as they are in the model.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != MEDIA_TYPE:
        raise UnsupportedMediaType(f"the body must be {MEDIA_TYPE}, the bytes of the file, not {media_type[:100]!r}")

    def stored() -> CheckpointView:
        with database.sessions() as session:
            id = imports.store(session, database.artifacts, catalog, query, file, sha256, principal, idempotency)
            return service.show(session, id)

    with tempfile.TemporaryDirectory(prefix="g2rpo-import-") as directory:
        file = pathlib.Path(directory) / imports.WEIGHTS
        sha256 = await receive(request.stream(), file)
        shown = await run_in_threadpool(stored)
    response.headers["Location"] = f"/checkpoints/{shown.id}"
    return shown


@router.delete(
    "/checkpoints/{checkpoint_id}",
    status_code=204,
    operation_id="deleteCheckpoint",
    summary="Delete a checkpoint",
    responses=problems(404, 409, 422),
)
@declare(Scope.WRITE)
def delete_checkpoint(checkpoint_id: uuid.UUID, session: SessionDep) -> None:
    """Delete a checkpoint's files. One that a waiting or working job needs is refused; deleting twice is no error.

    What is known of it stays, for the runs and images that came from it.
    """
    service.delete(session, checkpoint_id)


@router.get(
    "/checkpoints/{checkpoint_id}",
    operation_id="getCheckpoint",
    summary="Show a checkpoint",
    responses={200: {"links": FILES}, **problems(404, 422)},
)
@declare(Scope.READ, cacheable=True)
def get_checkpoint(checkpoint_id: uuid.UUID, session: SessionDep) -> CheckpointView:
    """A checkpoint with its manifest and its files."""
    return service.show(session, checkpoint_id)


@router.get(
    "/checkpoints/{checkpoint_id}/archive",
    operation_id="getCheckpointArchive",
    summary="Take a checkpoint away",
    response_class=Response,
    responses={
        200: {"content": {archive.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "The client has it."},
        **problems(404, 410, 422),
    },
)
@declare(Scope.READ)
def get_checkpoint_archive(
    checkpoint_id: uuid.UUID,
    query: Annotated[ArchiveQuery, Query()],
    request: Request,
    database: DatabaseDep,
    catalog: CatalogDep,
    session: SessionDep,
) -> Response:
    """The weights, a model card, spec, curves and manifest as one tar file, made while it is sent; ranges are not."""
    described = archive.describe(session, catalog, service.present(session, checkpoint_id), query.training)
    session.close()  # sending takes a while, and needs no connection
    return archive.answer(database.artifacts, described, request.headers.get("if-none-match"))


@router.get(
    "/checkpoints/{checkpoint_id}/files/{name:path}",
    operation_id="downloadCheckpointFile",
    summary="Download a file of a checkpoint",
    response_class=Response,
    responses={
        200: _BYTES,
        206: {"description": "The asked range.", **_BYTES},
        304: {"description": "The client has it."},
        **problems(404, 410, 416, 422),
    },
)
@declare(Scope.READ)
def download_checkpoint_file(
    checkpoint_id: uuid.UUID,
    name: FileName,
    request: Request,
    database: DatabaseDep,
    session: SessionDep,
    range: Annotated[str | None, Header(description="One range of bytes, such as `bytes=0-1023`.")] = None,
) -> Response:
    """A file, whole or a range of it; `ETag` is its SHA-256. A LoRA file is what `load_lora_weights` takes."""
    file = service.file(session, checkpoint_id, name)
    return download.download(database.artifacts, file, request.method, request.headers)


@router.head(
    "/checkpoints/{checkpoint_id}/files/{name:path}",
    operation_id="headCheckpointFile",
    summary="Length and hash of a file of a checkpoint",
    response_class=Response,
    responses={
        200: {"description": "Its `Content-Length`, `ETag` and `Repr-Digest`.", **_BYTES},
        304: {"description": "The client has it."},
        **problems(404, 410, 422),
    },
)
@declare(Scope.READ)
def head_checkpoint_file(
    checkpoint_id: uuid.UUID, name: FileName, request: Request, database: DatabaseDep, session: SessionDep
) -> Response:
    """What a download would answer with, without the file."""
    file = service.file(session, checkpoint_id, name)
    return download.download(database.artifacts, file, request.method, request.headers)
