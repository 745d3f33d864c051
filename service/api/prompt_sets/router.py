"""`/prompt-sets`: prompts that clients send, beside those of the catalog."""

import pathlib
import tempfile
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.dependencies import CatalogDep, DatabaseDep, SessionDep
from service.api.idempotency import StreamedIdempotentRequestDep
from service.api.prompt_sets import service
from service.api.prompt_sets.schemas import PromptSetFilters, PromptSetQuery, PromptSetUpload, PromptSetView, PromptView
from service.api.routing import ApiRoute, declare
from service.api.runs.router import LOCATION
from service.auth.principal import PrincipalDep, Scope
from service.contracts.prompts import Format
from service.http.errors import UnsupportedMediaType, problems
from service.http.openapi_links import links
from service.http.pagination import Page
from service.http.uploads import receive

router = APIRouter(prefix="/prompt-sets", tags=["prompt sets"], route_class=ApiRoute)

FORMATS: dict[str, Format] = {
    "text/plain": "text",
    "application/jsonl": "jsonl",
    "application/x-ndjson": "jsonl",
    "text/csv": "csv",
}
_OF_ONE = ("getPromptSet", "listPrompts", "deletePromptSet")
_JSON_LINE = '{"prompt": "a red circle", "metadata": {"source": "mine"}}\n'
_EXAMPLES = {"text": "a red circle\na blue square\n", "jsonl": _JSON_LINE, "csv": "prompt,source\na red circle,mine\n"}
_FILES = {
    media_type: {"schema": {"type": "string"}, "examples": {"short": {"value": _EXAMPLES[format]}}}
    for media_type, format in FORMATS.items()
}
Name = Annotated[
    str,
    Path(
        description="One that `GET /prompt-sets` lists.",
        examples=["shapes-train"],
        max_length=100,
        pattern=r"^[^\x00]*$",
    ),
]


@router.post(
    "",
    status_code=201,
    operation_id="createPromptSet",
    summary="Send prompts",
    responses={
        201: {"headers": LOCATION, "links": links(*_OF_ONE, name="$response.body#/prompt_sets/0/name")},
        **problems(409, 410, 413, 415, 422),
    },
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
    """Send a file of prompts as the body, in UTF-8; runs can then name the set.

    A prompt a line (`text/plain`), JSON objects with `prompt` and perhaps `metadata` (`application/jsonl`,
    `application/x-ndjson`), or a table with a column `prompt` (`text/csv`), whose other columns become metadata. White
    space is made even, Unicode is NFC, and each prompt is kept once. Bad lines are told by their numbers.
    """
    format = _format(request.headers.get("content-type", ""))
    with tempfile.TemporaryDirectory(prefix="g2rpo-prompts-") as directory:
        file = pathlib.Path(directory) / "received"
        sha256 = await receive(request.stream(), file)
        made = await run_in_threadpool(
            service.create, database, catalog, query, format, file, principal, idempotency.with_body(sha256)
        )
    response.headers["Location"] = f"/prompt-sets/{made.prompt_sets[0].name}"
    return made


def _format(content_type: str) -> Format:
    media_type, *parameters = (part.strip().lower() for part in content_type.split(";"))
    charsets = [one.partition("=")[2].strip('" ') for one in parameters if one.startswith("charset")]
    if media_type not in FORMATS or any(one not in ("utf-8", "utf8", "us-ascii") for one in charsets):
        allowed = ", ".join(FORMATS)
        raise UnsupportedMediaType(f"the body must be one of {allowed}, in UTF-8, not {content_type[:100]!r}")
    return FORMATS[media_type]


@router.get(
    "",
    operation_id="listPromptSets",
    summary="List prompt sets",
    responses={200: {"links": links("getPromptSet", name="$response.body#/items/0/name")}, **problems(422)},
)
@declare(Scope.READ, cacheable=True)
def list_prompt_sets(
    filters: Annotated[PromptSetFilters, Query()], session: SessionDep, catalog: CatalogDep
) -> Page[PromptSetView]:
    """What a spec may name under `prompts.set` and `heldout.prompts`: the catalog's sets and uploaded ones."""
    return service.listing(session, catalog, filters)


@router.get("/{name}", operation_id="getPromptSet", summary="Show a prompt set", responses=problems(404, 422))
@declare(Scope.READ, cacheable=True)
def get_prompt_set(name: Name, session: SessionDep, catalog: CatalogDep) -> PromptSetView:
    """A set with its counts: lines read, prompts kept, duplicates and blank lines left out."""
    return service.show(session, catalog, name)


@router.get(
    "/{name}/items", operation_id="listPrompts", summary="Prompts of a prompt set", responses=problems(404, 422)
)
@declare(Scope.READ, cacheable=True)
def list_prompts(
    name: Name,
    filters: Annotated[PromptSetFilters, Query()],
    session: SessionDep,
    database: DatabaseDep,
    catalog: CatalogDep,
) -> Page[PromptView]:
    """The prompts of an uploaded set, in the order they were sent in."""
    return service.items(session, database.artifacts, catalog, name, filters)


@router.delete(
    "/{name}",
    status_code=204,
    operation_id="deletePromptSet",
    summary="Delete a prompt set",
    responses=problems(404, 409, 422),
)
@declare(Scope.WRITE)
def delete_prompt_set(name: Name, session: SessionDep, catalog: CatalogDep) -> None:
    """Delete an uploaded set; its name is free again. One that a run needs which has not ended is refused."""
    service.delete(session, catalog, name)
