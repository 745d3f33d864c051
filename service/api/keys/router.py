"""`/keys`: who may ask for what."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Body, Query, Response

from service.api.dependencies import SessionDep
from service.api.idempotency import IdempotentRequestDep
from service.api.keys import service
from service.api.keys.schemas import KeyFilters, KeyMade, KeySpec, KeyView
from service.api.routing import ApiRoute, declare
from service.auth.principal import Scope
from service.http.errors import problems
from service.http.openapi_links import ID, KEY, links
from service.http.pagination import Page

router = APIRouter(prefix="/keys", tags=["keys"], route_class=ApiRoute)

_LOCATION = {"Location": {"description": "Where the key is shown.", "schema": {"type": "string"}}}
_EXAMPLES = {
    "lab": {"summary": "A key for a lab", "value": {"name": "the lab", "scopes": ["write"], "max_open_jobs": 20}},
    "admin": {"summary": "A key that makes keys", "value": {"name": "operator", "scopes": ["admin"]}},
}


@router.post(
    "",
    status_code=201,
    operation_id="createKey",
    summary="Make a key",
    responses={201: {"headers": _LOCATION, "links": links(*KEY, key_id=ID)}, **problems(409, 413, 422)},
)
@declare(Scope.ADMIN)
def create_key(
    spec: Annotated[KeySpec, Body(openapi_examples=_EXAMPLES)],
    response: Response,
    session: SessionDep,
    idempotency: IdempotentRequestDep,
) -> KeyMade:
    """Make a key and show it, this once: only a hash is kept.

    The first key must have the scope `admin`, and from then on every request needs a key.
    """
    made = service.create(session, spec, idempotency)
    response.headers["Location"] = f"/keys/{made.id}"
    response.headers["Cache-Control"] = "no-store"
    return made


@router.get("", operation_id="listKeys", summary="List keys", responses=problems(422))
@declare(Scope.ADMIN)
def list_keys(filters: Annotated[KeyFilters, Query()], session: SessionDep) -> Page[KeyView]:
    """Keys, newest first, without their secrets; revoked ones too."""
    return service.listing(session, filters)


@router.get("/{key_id}", operation_id="getKey", summary="Show a key", responses=problems(404, 422))
@declare(Scope.ADMIN)
def get_key(key_id: uuid.UUID, session: SessionDep) -> KeyView:
    """A key without its secret, and when it was last used."""
    return service.show(session, key_id)


@router.delete("/{key_id}", operation_id="revokeKey", summary="Revoke a key", responses=problems(404, 409, 422))
@declare(Scope.ADMIN)
def revoke_key(key_id: uuid.UUID, session: SessionDep) -> KeyView:
    """Take a key back: from the next request on it is refused, and streams that it opened end. Its jobs go on.

    Revoking twice changes nothing. The last key with the scope `admin` that is good is not revoked: 409.
    """
    return service.revoke(session, key_id)
