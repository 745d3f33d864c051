"""`Idempotency-Key`: a request that is repeated because its response was lost is not executed again.

A POST route has a parameter `idempotency: IdempotentRequestDep`; its service claims the key first, in the transaction
that does the work:

    id = new_id()
    if (earlier := idempotency.claim(session, id)) is not None:
        return earlier
    session.add(Run(id=id, ...))

A claim is a row of the same transaction, so a failed request does not use up its key. An identical concurrent request
waits in `claim` until the first has ended.
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
"""How long an identical request waits until the first has ended."""
_KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern="^[!-~]+$",
        description="A unique key of the request. A repeated request with the same key and body is not executed again: "
        "the response shows the resource of the first one, with `Idempotency-Replayed: true`.",
    ),
]


class IdempotencyMismatch(ServiceError):
    """The key was used for a different request."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "idempotency_mismatch"


class IdempotencyInProgress(ServiceError):
    """An identical request is still in progress."""

    status = HTTPStatus.CONFLICT
    code = "idempotency_in_progress"


@dataclass(frozen=True)
class IdempotentRequest:
    """A request with its idempotency key; without a key every claim is new."""

    request: Request
    scope: uuid.UUID
    """The id of the API key: idempotency keys are unique per API key. All zeros without one."""
    key: str | None
    body_sha256: str | None

    def with_body(self, sha256: str) -> "IdempotentRequest":
        """A copy with the SHA-256 (hexadecimal) of the body, for a route that reads its body as a stream."""
        return replace(self, body_sha256=sha256)

    def claim(self, session: Session, resource_id: uuid.UUID) -> uuid.UUID | None:
        """None for a new request, which works on `resource_id`; else the resource id of the identical earlier request.

        Call it before any check of the current state, so that a repeated request gets its response whatever has changed
        since. Raises IdempotencyMismatch, and IdempotencyInProgress after ten seconds of waiting.
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
                "request with another method, path, query or body; use a new key for a new request"
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
"""For a route that reads its body as a stream; it calls `idempotency.with_body(sha256)` before `claim`."""
