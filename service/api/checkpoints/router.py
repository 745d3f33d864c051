"""Routes under `/runs/{run_id}/checkpoints` and `/checkpoints`: saved policies."""

import pathlib
import tempfile
import uuid
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.checkpoints import downloads, imports, service
from service.api.checkpoints.schemas import (
    ArchiveQuery,
    CheckpointFilters,
    CheckpointSummary,
    CheckpointView,
    ImportQuery,
)
from service.api.dependencies import CatalogDep, DatabaseDep, SessionDep
from service.api.idempotency import StreamedIdempotentRequestDep
from service.api.routing import LOCATION, ApiRoute, declare
from service.auth.principal import PrincipalDep, Scope
from service.http.errors import UnsupportedMediaType, problems
from service.http.links import link
from service.http.pagination import Page, PageQuery
from service.http.uploads import receive

router = APIRouter(tags=["checkpoints"], route_class=ApiRoute)

FileName = Annotated[str, Path(description="File name in the manifest.", examples=["pytorch_lora_weights.safetensors"])]
_BYTES = {"content": {downloads.FILE_TYPE: {"schema": {"type": "string", "format": "binary"}}}}


@router.get("/runs/{run_id}/checkpoints", summary="List the checkpoints of a run")
@declare(Scope.READ, cacheable=True)
def list_checkpoints(
    run_id: uuid.UUID, query: Annotated[PageQuery, Query()], session: SessionDep
) -> Page[CheckpointSummary]:
    """List the checkpoints of a run, latest step first."""
    return service.list_of_run(session, run_id, query)


@router.get("/checkpoints", summary="List all checkpoints")
@declare(Scope.READ, cacheable=True)
def list_all_checkpoints(
    filters: Annotated[CheckpointFilters, Query()], session: SessionDep
) -> Page[CheckpointSummary]:
    """List the checkpoints of all runs and the imported checkpoints, newest first."""
    return service.list_all(session, filters)


@router.post(
    "/checkpoints",
    status_code=201,
    summary="Import a LoRA",
    responses={201: LOCATION, **problems(409)},
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
    """Upload a LoRA file (safetensors) as the request body, to use it in runs and generations.

    The file has the format of diffusers or of kohya's sd-scripts. Several ranks or scales are converted to one rank and
    α. The model must support LoRA for every layer in the file. Other layers keep their weights.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != downloads.FILE_TYPE:
        raise UnsupportedMediaType(
            f"Unsupported content type {media_type[:100]!r}; the body must be {downloads.FILE_TYPE}"
        )

    def store() -> CheckpointView:
        with database.sessions() as session:
            id = imports.store(session, database.artifacts, catalog, query, file, sha256, principal, idempotency)
            return service.show(session, id)

    with tempfile.TemporaryDirectory(prefix="g2rpo-import-") as directory:
        file = pathlib.Path(directory) / imports.WEIGHTS
        sha256 = await receive(request.stream(), file)
        checkpoint = await run_in_threadpool(store)
    response.headers["Location"] = link(f"/checkpoints/{checkpoint.id}")
    return checkpoint


@router.delete("/checkpoints/{checkpoint_id}", status_code=204, summary="Delete a checkpoint", responses=problems(409))
@declare(Scope.WRITE)
def delete_checkpoint(checkpoint_id: uuid.UUID, session: SessionDep) -> None:
    """Delete the files of a checkpoint. Its record remains, because runs and images may refer to it.

    A checkpoint in use by an open job cannot be deleted. Deleting a checkpoint again has no effect.
    """
    service.delete(session, checkpoint_id)


@router.get("/checkpoints/{checkpoint_id}", summary="Show a checkpoint")
@declare(Scope.READ, cacheable=True)
def get_checkpoint(checkpoint_id: uuid.UUID, session: SessionDep) -> CheckpointView:
    """Return a checkpoint with its manifest and files."""
    return service.show(session, checkpoint_id)


@router.get(
    "/checkpoints/{checkpoint_id}/archive",
    summary="Download a checkpoint as an archive",
    response_class=Response,
    responses={
        200: {"content": {downloads.ARCHIVE_TYPE: {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "The client has the current version."},
        **problems(410),
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
    """Download the weights, model card, spec, curves and manifest as one tar file.

    The archive is created while it is sent, so ranges are not supported.
    """
    archive = downloads.archive(session, catalog, service.present(session, checkpoint_id), query.training)
    session.close()  # release the connection while the file is sent
    return downloads.archive_response(database.artifacts, archive, request.headers.get("if-none-match"))


@router.get(
    "/checkpoints/{checkpoint_id}/kohya",
    summary="Download a LoRA for ComfyUI and sd-scripts",
    response_class=Response,
    responses={200: _BYTES, **problems(409, 410)},
)
@declare(Scope.READ)
def get_kohya_lora(
    checkpoint_id: uuid.UUID, database: DatabaseDep, catalog: CatalogDep, session: SessionDep
) -> Response:
    """Download a LoRA in the format of kohya's sd-scripts, which ComfyUI and other programs read.

    It has the original model's names of layers, and a tensor `alpha` for each. `POST /checkpoints` also accepts it.
    """
    row = service.present(session, checkpoint_id)
    session.close()  # release the connection while the file is sent
    return downloads.kohya_response(database.artifacts, catalog, row)


@router.get(
    "/checkpoints/{checkpoint_id}/files/{name:path}",
    summary="Download a checkpoint file",
    response_class=Response,
    responses={
        200: _BYTES,
        206: {"description": "The requested range.", **_BYTES},
        304: {"description": "The client has the current version."},
        **problems(410, 416),
    },
)
@declare(Scope.READ)
def download_checkpoint_file(
    checkpoint_id: uuid.UUID,
    name: FileName,
    request: Request,
    database: DatabaseDep,
    session: SessionDep,
    range: Annotated[str | None, Header(description="One byte range, such as `bytes=0-1023`.")] = None,
) -> Response:
    """Download a file or a range of it. The `ETag` is the SHA-256 of the file.

    LoRA files can be loaded with diffusers' `load_lora_weights`.
    """
    file = service.file(session, checkpoint_id, name)
    return downloads.file_response(database.artifacts, file, request.method, request.headers)


@router.head(
    "/checkpoints/{checkpoint_id}/files/{name:path}",
    summary="Show the size and hash of a checkpoint file",
    response_class=Response,
    responses={
        200: {"description": "`Content-Length`, `ETag` and `Repr-Digest` of the file.", **_BYTES},
        304: {"description": "The client has the current version."},
        **problems(410),
    },
)
@declare(Scope.READ)
def head_checkpoint_file(
    checkpoint_id: uuid.UUID, name: FileName, request: Request, database: DatabaseDep, session: SessionDep
) -> Response:
    """Return the headers of a download without the file itself."""
    file = service.file(session, checkpoint_id, name)
    return downloads.file_response(database.artifacts, file, request.method, request.headers)
