"""`/prompt-sets`: uploaded prompt sets and the prompt sets in the catalog."""

import pathlib
import tempfile
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.dependencies import CatalogDep, DatabaseDep, SessionDep
from service.api.idempotency import StreamedIdempotentRequestDep
from service.api.prompt_sets import service
from service.api.prompt_sets.schemas import PromptSetQuery, PromptSetUpload, PromptSetView, PromptView
from service.api.routing import LOCATION, ApiRoute, declare
from service.auth.principal import PrincipalDep, Scope
from service.contracts.prompts import Format
from service.http.errors import UnsupportedMediaType, problems
from service.http.links import link
from service.http.pagination import Page, PageQuery
from service.http.uploads import receive

router = APIRouter(prefix="/prompt-sets", tags=["prompt sets"], route_class=ApiRoute)

FORMATS: dict[str, Format] = {
    "text/plain": "text",
    "application/jsonl": "jsonl",
    "application/x-ndjson": "jsonl",
    "text/csv": "csv",
}
_JSON_LINE = '{"prompt": "a red circle", "metadata": {"source": "mine"}}\n'
_EXAMPLES = {"text": "a red circle\na blue square\n", "jsonl": _JSON_LINE, "csv": "prompt,source\na red circle,mine\n"}
_FILES = {
    media_type: {"schema": {"type": "string"}, "examples": {"short": {"value": _EXAMPLES[format]}}}
    for media_type, format in FORMATS.items()
}
Name = Annotated[
    str,
    Path(
        description="Name of a prompt set; see `GET /prompt-sets`.",
        examples=["shapes-train"],
        max_length=100,
        pattern=r"^[^\x00]*$",
    ),
]


@router.post(
    "",
    status_code=201,
    summary="Upload prompts",
    responses={201: LOCATION, **problems(409, 410)},
    openapi_extra={"requestBody": {"required": True, "content": _FILES}},
)
@declare(Scope.WRITE, max_body="max_prompt_set_bytes")
async def create_prompt_set(
    query: Annotated[PromptSetQuery, Query()],
    request: Request,
    response: Response,
    database: DatabaseDep,
    catalog: CatalogDep,
    principal: PrincipalDep,
    idempotency: StreamedIdempotentRequestDep,
) -> PromptSetUpload:
    """Upload a UTF-8 file of prompts as the request body. Runs can then refer to the set by name.

    The file contains one prompt per line (`text/plain`), one JSON object per line with `prompt` and optional `metadata`
    (`application/jsonl`, `application/x-ndjson`), or a table with a column `prompt` (`text/csv`), whose other columns
    become metadata. Whitespace and Unicode (NFC) are normalized, and duplicates are removed. Errors include line
    numbers.
    """
    format = _format(request.headers.get("content-type", ""))
    with tempfile.TemporaryDirectory(prefix="g2rpo-prompts-") as directory:
        file = pathlib.Path(directory) / "received"
        sha256 = await receive(request.stream(), file)
        created = await run_in_threadpool(
            service.create, database, catalog, query, format, file, principal, idempotency.with_body(sha256)
        )
    response.headers["Location"] = link(f"/prompt-sets/{created.prompt_sets[0].name}")
    return created


def _format(content_type: str) -> Format:
    media_type, *parameters = (part.strip().lower() for part in content_type.split(";"))
    charsets = [parameter.partition("=")[2].strip('" ') for parameter in parameters if parameter.startswith("charset")]
    if media_type not in FORMATS or not {"utf-8", "utf8", "us-ascii"}.issuperset(charsets):
        allowed = ", ".join(FORMATS)
        raise UnsupportedMediaType(f"Unsupported content type {content_type[:100]!r}; allowed: {allowed}, in UTF-8")
    return FORMATS[media_type]


@router.get("", summary="List prompt sets")
@declare(Scope.READ, cacheable=True)
def list_prompt_sets(
    query: Annotated[PageQuery, Query()], session: SessionDep, catalog: CatalogDep
) -> Page[PromptSetView]:
    """Return the catalog and uploaded prompt sets, whose names `prompts.set` and `heldout.prompts` of a spec accept."""
    return service.list_prompt_sets(session, catalog, query)


@router.get("/{name}", summary="Show a prompt set")
@declare(Scope.READ, cacheable=True)
def get_prompt_set(name: Name, session: SessionDep, catalog: CatalogDep) -> PromptSetView:
    """Return a prompt set with its counts: lines read, prompts stored, duplicates and blank lines removed."""
    return service.show(session, catalog, name)


@router.get("/{name}/items", summary="List prompts of a prompt set")
@declare(Scope.READ, cacheable=True)
def list_prompts(
    name: Name, query: Annotated[PageQuery, Query()], session: SessionDep, database: DatabaseDep, catalog: CatalogDep
) -> Page[PromptView]:
    """Return the prompts of an uploaded set in file order."""
    return service.list_prompts(session, database.artifacts, catalog, name, query)


@router.delete("/{name}", status_code=204, summary="Delete a prompt set", responses=problems(409))
@declare(Scope.WRITE)
def delete_prompt_set(name: Name, session: SessionDep, catalog: CatalogDep) -> None:
    """Delete an uploaded set and release its name. A set cannot be deleted while an open run uses it."""
    service.delete(session, catalog, name)
