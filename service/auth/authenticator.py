"""Who is let in: every request is looked at here before its body is read.

While there are no keys, this machine alone is answered. From the first key on, every request shows one, except for what
needs none; where it comes from then no longer matters.
"""

import functools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
import structlog
from sqlalchemy.exc import ProgrammingError
from starlette.concurrency import run_in_threadpool

from service.auth import api_keys, scopes
from service.auth.batching import Rounds
from service.auth.errors import KeyMalformed, KeyMissing, ScopeMissing, Unauthorized
from service.auth.principal import ANONYMOUS, LOCAL, Admitted, Caller
from service.auth.rate_limit import RateLimiter
from service.core import security
from service.db.async_reader import Looks
from service.db.session import Database
from service.http.errors import UNAVAILABLE, ServiceError

NO_SCHEMA = (ProgrammingError, psycopg.ProgrammingError)
AWAY = (*UNAVAILABLE, *NO_SCHEMA)
"""What is raised without a database, or with one that has another schema."""
_PAUSE = 0.025
"""Seconds between two lookings-up of keys: among a hundred requests a second that is one for two or three of them."""
log = structlog.get_logger()


@dataclass(frozen=True)
class Applicant:
    """What a request shows of who sent it."""

    authorization: tuple[str, ...]
    """Its Authorization headers."""
    stranger: ServiceError | None
    """Why it does not come from this machine; None if it does."""


class Admission:
    """Decides who a request comes from, and whether it may ask for what it asks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._looks = Looks(database)
        self._lookings_up = Rounds(functools.partial(api_keys.look_up, self._looks), _PAUSE)
        self._limiter = RateLimiter(database.settings.broker_url)
        admin_key = database.settings.admin_key
        self._to_store = admin_key.get_secret_value() if admin_key else None
        self._in_force = admin_key is not None
        """Once there is a key there always is one, if only a revoked one: rows are never deleted."""

    def begin(self) -> None:
        """Have the environment's key, if the database is there; else the first request does it."""
        try:
            self._store()
        except AWAY as error:
            log.warning("admin_key_not_stored", error=type(error).__name__, hint="the first request will store it")

    async def visitor(self, applicant: Applicant) -> Caller:
        """Who asks for what needs no key. Raises NotLocal or HostNotAllowed while there are no keys."""
        if applicant.stranger is None:
            return LOCAL
        try:
            return (await self._admitted(applicant, None)).caller
        except (Unauthorized, *AWAY):
            return ANONYMOUS

    async def admit(
        self, applicant: Applicant, operation: str | None, run: uuid.UUID | None, headers: dict[str, str]
    ) -> Admitted:
        """Who asks for an operation, if the key is good and has its scope; `headers` gets what the answer says of the
        key's rate. With a `run`, it also tells whether that has ended.

        Raises Unauthorized, ScopeMissing, RateLimited, and NotLocal or HostNotAllowed while there are no keys.
        """
        try:
            admitted = await self._admitted(applicant, run)
        except AWAY:
            if applicant.stranger is None and operation in scopes.WITHOUT_DATABASE:
                return Admitted(ANONYMOUS, None)
            raise
        caller = admitted.caller
        if caller.id is not None:
            usual = self._database.settings.requests_per_minute
            headers.update(await self._limiter.take(caller.id, caller.requests_per_minute or usual))
        needed = scopes.needed(operation)
        if needed is not None and not caller.may(needed):
            raise ScopeMissing(caller, needed)
        return admitted

    async def close(self) -> None:
        """Give up every connection."""
        await self._limiter.close()
        await self._looks.close()

    async def _admitted(self, applicant: Applicant, run: uuid.UUID | None) -> Admitted:
        if self._to_store is not None:
            await run_in_threadpool(self._store)
        if not self._in_force:
            self._in_force, admitted = await api_keys.standing(self._looks, run)
            if not self._in_force:
                if applicant.stranger is not None:
                    raise applicant.stranger
                return admitted
        visit = api_keys.Visit(presented(applicant.authorization), run)
        found = api_keys.recognise(visit, await self._lookings_up.answer(visit))
        if found.stale:
            await run_in_threadpool(self._note_use, found.admitted.caller.id)
        return found.admitted

    def _note_use(self, id: uuid.UUID | None) -> None:
        with self._database.sessions() as session:
            api_keys.note_use(session, id)

    def _store(self) -> None:
        with self._database.sessions() as session:
            if self._to_store is not None:
                api_keys.store_environment_key(session, self._to_store)
                self._to_store = None


def presented(authorization: Sequence[str]) -> str:
    """The key in a request's Authorization headers. Raises Unauthorized, which does not show it."""
    if not authorization:
        raise KeyMissing
    scheme, _, key = authorization[0].strip().partition(" ")
    if len(authorization) > 1 or scheme.lower() != "bearer":
        raise KeyMalformed("the key is sent in one header `Authorization: Bearer g2k_…`")
    try:
        security.check_form(key.strip())
    except ValueError as error:
        raise KeyMalformed(f"this is no key: {error}") from None
    return key.strip()
