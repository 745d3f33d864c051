"""Support for `Idempotency-Key`: a client can safely repeat a request whose response was lost.

A POST route declares the parameter `idempotency: IdempotentRequestDep`. Before anything else, its service claims the
key in the transaction that does the work:

    id = new_id()
    if (earlier := idempotency.claim(session, id)) is not None:
        return earlier
    session.add(Run(id=id, ...))

The claim is a row written in that transaction, so a failed request does not use up its key. If an identical request is
in progress, `claim` waits until that request has ended.
"""

import hashlib
import uuid
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Header, Request
from psycopg.errors import LockNotAvailable
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.auth.principal import PrincipalDep
from service.db.models import IdempotencyKey
from service.http.errors import ServiceError, invalid
from service.middleware.request import REPLAYED

_WITHOUT_KEY = uuid.UUID(int=0)
_LOCK_TIMEOUT = "10s"
"""Maximum time that a repeated request waits for the first request to end."""
_KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern="^[!-~]+$",
        description="A unique key for the request. A repeated request with the same key and body is not executed "
        "again: the response shows the resource of the first request and has the header `Idempotency-Replayed: true`.",
    ),
]


class IdempotencyMismatch(ServiceError, status=HTTPStatus.UNPROCESSABLE_ENTITY, code="idempotency_mismatch"):
    """The idempotency key was already used for a different request."""


class IdempotencyInProgress(ServiceError, status=HTTPStatus.CONFLICT, code="idempotency_in_progress"):
    """A request with the same idempotency key is still in progress."""


@dataclass(frozen=True)
class IdempotentRequest:
    """A request with an optional idempotency key. A request without a key is always treated as new."""

    request: Request
    scope: uuid.UUID
    """The id of the API key, since idempotency keys are unique per API key. All zeros if no API key was used."""
    key: str | None
    body_sha256: str | None

    def with_body(self, sha256: str) -> "IdempotentRequest":
        """Return a copy with the hexadecimal SHA-256 of the body. Used by routes that read the body as a stream."""
        return replace(self, body_sha256=sha256)

    def claim(self, session: Session, resource_id: uuid.UUID) -> uuid.UUID | None:
        """Claim the key for `resource_id`, or return the resource id of an identical earlier request.

        Returns None for a new request. Call this method before checking any other state, so that a repeated request
        is answered even if the state has changed since. Raises IdempotencyMismatch if the key was used for a different
        request, and IdempotencyInProgress if an earlier request has not ended after ten seconds.
        """
        if self.key is None:
            return None
        fingerprint = self._fingerprint()
        if self._insert(session, self.key, fingerprint, resource_id):
            return None
        earlier = session.get_one(IdempotencyKey, (self.scope, self.key))
        if earlier.fingerprint != fingerprint:
            raise IdempotencyMismatch(
                f"The Idempotency-Key {self.key!r} was used at {earlier.created_at:%Y-%m-%d %H:%M:%S} UTC for a "
                "request with a different method, path, query or body; use a new key for a new request"
            )
        self.request.state.response_headers[REPLAYED] = "true"
        return earlier.resource_id

    def _insert(self, session: Session, key: str, fingerprint: str, resource_id: uuid.UUID) -> bool:
        row = {"scope": self.scope, "key": key, "fingerprint": fingerprint, "resource_id": resource_id}
        statement = insert(IdempotencyKey).values(row).on_conflict_do_nothing().returning(IdempotencyKey.key)
        session.execute(select(func.set_config("lock_timeout", _LOCK_TIMEOUT, True)))
        try:
            inserted = session.scalar(statement) is not None
        except OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable):
                raise
            detail = f"A request with the Idempotency-Key {key!r} is still in progress; retry later"
            raise IdempotencyInProgress(detail, headers={"Retry-After": "5"}) from error
        session.execute(select(func.set_config("lock_timeout", "0", True)))
        return inserted

    def _fingerprint(self) -> str:
        assert self.body_sha256 is not None, "a route that reads its body as a stream calls `with_body`"
        scope = self.request.scope
        parts = (scope["method"], scope["path"], scope["query_string"].decode("latin-1"), self.body_sha256)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


async def _without_body(request: Request, principal: PrincipalDep, key: _KeyHeader = None) -> IdempotentRequest:
    if len(request.headers.getlist("Idempotency-Key")) > 1:
        raise invalid(["header", "Idempotency-Key"], "Repeated header; send it once")
    return IdempotentRequest(request, principal.id or _WITHOUT_KEY, key, None)


async def _with_body(
    request: Request, idempotency: Annotated[IdempotentRequest, Depends(_without_body)]
) -> IdempotentRequest:
    body = await request.body() if idempotency.key is not None else b""
    return idempotency.with_body(hashlib.sha256(body).hexdigest())


IdempotentRequestDep = Annotated[IdempotentRequest, Depends(_with_body)]
StreamedIdempotentRequestDep = Annotated[IdempotentRequest, Depends(_without_body)]
"""For routes that read the body as a stream. They must call `idempotency.with_body(sha256)` before `claim`."""
