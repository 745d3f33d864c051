"""`/keys`: API keys."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Body, Query, Response

from service.api.dependencies import SessionDep
from service.api.idempotency import IdempotentRequestDep
from service.api.keys import service
from service.api.keys.schemas import CreatedKeyView, KeySpec, KeyView
from service.api.routing import LOCATION, ApiRoute, declare
from service.auth.principal import Scope
from service.http.errors import problems
from service.http.links import link
from service.http.pagination import Page, PageQuery

router = APIRouter(prefix="/keys", tags=["keys"], route_class=ApiRoute)

_EXAMPLES = {
    "lab": {"summary": "A key for a lab", "value": {"name": "the lab", "scopes": ["write"], "max_open_jobs": 20}},
    "admin": {"summary": "An admin key", "value": {"name": "operator", "scopes": ["admin"]}},
}


@router.post("", status_code=201, summary="Create a key", responses={201: LOCATION, **problems(409)})
@declare(Scope.ADMIN)
def create_key(
    spec: Annotated[KeySpec, Body(openapi_examples=_EXAMPLES)],
    response: Response,
    session: SessionDep,
    idempotency: IdempotentRequestDep,
) -> CreatedKeyView:
    """Create a key. Only this response contains the secret: the database stores its hash.

    The first key must have the scope `admin`. Once it exists, every request requires a key.
    """
    made = service.create(session, spec, idempotency)
    response.headers["Location"] = link(f"/keys/{made.id}")
    response.headers["Cache-Control"] = "no-store"
    return made


@router.get("", summary="List keys")
@declare(Scope.ADMIN)
def list_keys(query: Annotated[PageQuery, Query()], session: SessionDep) -> Page[KeyView]:
    """Return all keys, including revoked keys, newest first. Secrets are not included."""
    return service.list_keys(session, query)


@router.get("/{key_id}", summary="Show a key")
@declare(Scope.ADMIN)
def get_key(key_id: uuid.UUID, session: SessionDep) -> KeyView:
    """Return a key with the time of its last use, but without its secret."""
    return service.show(session, key_id)


@router.delete("/{key_id}", summary="Revoke a key", responses=problems(409))
@declare(Scope.ADMIN)
def revoke_key(key_id: uuid.UUID, session: SessionDep) -> KeyView:
    """Revoke a key: its next request is refused, and its open streams end. Jobs created with the key continue.

    The request is idempotent. Revoking the last valid key with the scope `admin` is refused with status 409.
    """
    return service.revoke(session, key_id)
