"""`/runs/{run_id}/checkpoints` and `/checkpoints`: saved policies."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response

from service.checkpoints import download, service
from service.checkpoints.schemas import CheckpointFilters, CheckpointSummary, CheckpointView
from service.dependencies import DatabaseDep, SessionDep
from service.errors import problems
from service.pages import Page

router = APIRouter(tags=["checkpoints"])

FileName = Annotated[str, Path(description="A name of the manifest.", examples=["pytorch_lora_weights.safetensors"])]
_BYTES = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}


@router.get(
    "/runs/{run_id}/checkpoints",
    operation_id="listCheckpoints",
    summary="Checkpoints of a run",
    responses=problems(404, 422),
)
def list_checkpoints(
    run_id: uuid.UUID, filters: Annotated[CheckpointFilters, Query()], session: SessionDep
) -> Page[CheckpointSummary]:
    """A run's checkpoints, newest step first."""
    return service.listing(session, run_id, filters)


@router.get(
    "/checkpoints/{checkpoint_id}",
    operation_id="getCheckpoint",
    summary="Show a checkpoint",
    responses=problems(404, 422),
)
def get_checkpoint(checkpoint_id: uuid.UUID, session: SessionDep) -> CheckpointView:
    """A checkpoint with its manifest and its files."""
    return service.show(session, checkpoint_id)


@router.get(
    "/checkpoints/{checkpoint_id}/files/{name:path}",
    operation_id="downloadCheckpointFile",
    summary="Download a file of a checkpoint",
    response_class=Response,
    responses={
        200: _BYTES,
        206: {"description": "The asked range.", **_BYTES},
        304: {"description": "The client has it."},
        **problems(404, 416, 422),
    },
)
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
        **problems(404, 422),
    },
)
def head_checkpoint_file(
    checkpoint_id: uuid.UUID, name: FileName, request: Request, database: DatabaseDep, session: SessionDep
) -> Response:
    """What a download would answer with, without the file."""
    file = service.file(session, checkpoint_id, name)
    return download.download(database.artifacts, file, request.method, request.headers)
