"""`Idempotency-Key`: a request that is sent again, because its answer was lost, is not done again.

A POST route has a parameter `idempotency: IdempotentRequestDep`; its service claims the key first, in the transaction
that does the work:

    run = Run(id=new_id(), ...)
    if (known := idempotency.claim(session, run.id)) is not None:
        with jobs.made_by_this_request(Run, known):
            return show(session, known)

A claim is a row of the same transaction: it lives and dies with what the request did, so a refused request leaves its
key free. An identical request at the same time waits in `claim` for the first one's end.
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

_NOBODY = uuid.UUID(int=0)
_PATIENCE = "10s"
"""How long an identical request waits for the first one's end."""
_KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern="^[!-~]+$",
        description="A name of yours for this request, new for each. Sent again with the same name and body, it is not "
        "done again: the answer shows what the first one made, with `Idempotency-Replayed: true`.",
    ),
]


class IdempotencyMismatch(ServiceError):
    """The key was used for another request."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "idempotency_mismatch"


class IdempotencyInProgress(ServiceError):
    """The same request is still being done."""

    status = HTTPStatus.CONFLICT
    code = "idempotency_in_progress"


@dataclass(frozen=True)
class IdempotentRequest:
    """One request by the name its client gave it; without a name every claim is new."""

    request: Request
    scope: uuid.UUID
    """The API key's id: two keys may use the same name. All zeros without keys."""
    key: str | None
    body_sha256: str | None

    def with_body(self, sha256: str) -> "IdempotentRequest":
        """The same, of a route that reads its body itself, once it knows its SHA-256 (hexadecimal)."""
        return replace(self, body_sha256=sha256)

    def claim(self, session: Session, resource_id: uuid.UUID) -> uuid.UUID | None:
        """None if the work is to be done, on `resource_id`; else the id that an identical earlier request worked on.

        Call it before any check that depends on the state of things: an answer that was lost is given again whatever
        has changed since. Raises IdempotencyMismatch, and IdempotencyInProgress after ten seconds of waiting.
        """
        if self.key is None:
            return None
        fingerprint = self._fingerprint()
        if self._inserted(session, self.key, fingerprint, resource_id):
            return None
        earlier = session.get_one(IdempotencyKey, (self.scope, self.key))
        if earlier.fingerprint != fingerprint:
            raise IdempotencyMismatch(
                f"the Idempotency-Key {self.key!r} was used on {earlier.created_at:%Y-%m-%d %H:%M:%S} UTC for another "
                "request (method, path, query and body must be the same, byte for byte); take a new key for a new "
                "request"
            )
        self.request.state.response_headers[REPLAYED] = "true"
        return earlier.resource_id

    def _inserted(self, session: Session, key: str, fingerprint: str, resource_id: uuid.UUID) -> bool:
        row = {"scope": self.scope, "key": key, "fingerprint": fingerprint, "resource_id": resource_id}
        inserting = insert(IdempotencyKey).values(row).on_conflict_do_nothing().returning(IdempotencyKey.key)
        session.execute(select(func.set_config("lock_timeout", _PATIENCE, True)))
        try:
            made = session.scalar(inserting) is not None
        except OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable):
                raise
            detail = f"a request with the Idempotency-Key {key!r} is still being done; send it again in a while"
            raise IdempotencyInProgress(detail, headers={"Retry-After": "5"}) from error
        session.execute(select(func.set_config("lock_timeout", "0", True)))
        return made

    def _fingerprint(self) -> str:
        assert self.body_sha256 is not None, "a route that reads its body itself says its hash by `with_body`"
        scope = self.request.scope
        said = (scope["method"], scope["path"], scope["query_string"].decode("latin-1"), self.body_sha256)
        return hashlib.sha256("\n".join(said).encode()).hexdigest()


async def _streamed(request: Request, principal: PrincipalDep, key: _KeyHeader = None) -> IdempotentRequest:
    if len(request.headers.getlist("Idempotency-Key")) > 1:
        raise invalid(["header", "Idempotency-Key"], "it stands more than once; send one")
    return IdempotentRequest(request, principal.id or _NOBODY, key, None)


async def _whole(request: Request, idempotency: Annotated[IdempotentRequest, Depends(_streamed)]) -> IdempotentRequest:
    body = await request.body() if idempotency.key is not None else b""
    return idempotency.with_body(hashlib.sha256(body).hexdigest())


IdempotentRequestDep = Annotated[IdempotentRequest, Depends(_whole)]
StreamedIdempotentRequestDep = Annotated[IdempotentRequest, Depends(_streamed)]
"""For a route that reads its body itself, as a stream: it says `once.with_body(sha256)` before it claims."""
