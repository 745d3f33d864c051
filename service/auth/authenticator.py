"""Who is let in: every request is looked at here before its body is read.

While there are no keys, this machine alone is answered. From the first key on, every request shows one, except for what
needs none; where it comes from then no longer matters.
"""

import functools
import ipaddress
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
import structlog
from sqlalchemy.exc import ProgrammingError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, State
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from service.api.keys import service
from service.auth import scopes
from service.auth.batching import Rounds
from service.auth.errors import HostNotAllowed, KeyMalformed, KeyMissing, NotLocal, ScopeMissing, Unauthorized
from service.auth.principal import ANONYMOUS, LOCAL, Admitted, Caller
from service.auth.rate_limit import RateLimiter
from service.core import security
from service.db.async_reader import Looks
from service.db.session import Database
from service.http.errors import UNAVAILABLE, NotReady, ServiceError, answer_error
from service.http.routes import Routes
from service.middleware import response_cache

_NO_SCHEMA = (ProgrammingError, psycopg.ProgrammingError)
_AWAY = (*UNAVAILABLE, *_NO_SCHEMA)
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
        self._lookings_up = Rounds(functools.partial(service.look_up, self._looks), _PAUSE)
        self._limiter = RateLimiter(database.settings.broker_url)
        admin_key = database.settings.admin_key
        self._to_store = admin_key.get_secret_value() if admin_key else None
        self._in_force = admin_key is not None
        """Once there is a key there always is one, if only a revoked one: rows are never deleted."""

    def begin(self) -> None:
        """Have the environment's key, if the database is there; else the first request does it."""
        try:
            self._store()
        except _AWAY as error:
            log.warning("admin_key_not_stored", error=type(error).__name__, hint="the first request will store it")

    async def visitor(self, applicant: Applicant) -> Caller:
        """Who asks for what needs no key. Raises NotLocal or HostNotAllowed while there are no keys."""
        if applicant.stranger is None:
            return LOCAL
        try:
            return (await self._admitted(applicant, None)).caller
        except (Unauthorized, *_AWAY):
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
        except _AWAY:
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
            self._in_force, admitted = await service.standing(self._looks, run)
            if not self._in_force:
                if applicant.stranger is not None:
                    raise applicant.stranger
                return admitted
        visit = service.Visit(presented(applicant.authorization), run)
        found = service.recognise(visit, await self._lookings_up.answer(visit))
        if found.stale:
            await run_in_threadpool(self._note_use, found.admitted.caller.id)
        return found.admitted

    def _note_use(self, id: uuid.UUID | None) -> None:
        with self._database.sessions() as session:
            service.note_use(session, id)

    def _store(self) -> None:
        with self._database.sessions() as session:
            if self._to_store is not None:
                service.store_environment_key(session, self._to_store)
                self._to_store = None


class Gate:
    """Lets requests in whose sender may ask for what they ask; `state.caller` then says who it is."""

    def __init__(self, app: ASGIApp, state: State, routes: Routes) -> None:
        self.app = app
        self.state = state
        self._routes = routes
        self._kept = response_cache.KeptAnswers()

    async def __call__(self, connection: Connection, receive: Receive, send: Send) -> None:
        if connection["type"] == "http":
            route = self._routes.find(connection)
            try:
                operation = route.operation_id if route else None
                admitted = await self._admitted(connection, operation)
            except (ServiceError, *_AWAY) as error:
                if isinstance(error, _NO_SCHEMA):
                    error = NotReady("the database has no schema, or another one; /readyz says more")
                answer = await answer_error(Request(connection), error)
                await answer(connection, receive, send)
                return
            connection["state"]["caller"] = admitted.caller
            if admitted.snapshot is not None and operation in response_cache.OPERATIONS:
                await self._kept.answer(admitted, self.app, connection, receive, send)
                return
        await self.app(connection, receive, send)

    async def _admitted(self, connection: Connection, operation: str | None) -> Admitted:
        admission: Admission = self.state.admission
        headers = Headers(scope=connection)
        applicant = Applicant(tuple(headers.getlist("Authorization")), _stranger(connection, headers))
        if connection["path"] in scopes.PUBLIC:
            if applicant.stranger is None:
                return Admitted(LOCAL, None)
            return Admitted(await admission.visitor(applicant), None)
        said: dict[str, str] = connection["state"]["answer_headers"]
        run = response_cache.run_asked(operation, connection.get("path_params", {}))
        return await admission.admit(applicant, operation, run, said)


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


def _stranger(connection: Connection, headers: Headers) -> ServiceError | None:
    client = connection.get("client")  # none on a unix socket
    if client is not None and not is_loopback(client[0]):
        return NotLocal(
            "without API keys the service answers to this machine only; make the first key by `g2rpo keys create` or "
            "G2RPO_ADMIN_KEY, and every machine may ask that shows one"
        )
    if not is_loopback(headers.get("host", "")):
        return HostNotAllowed(
            "without API keys the Host header must be localhost or a loopback address; the service answers to no other"
        )
    return None


@functools.lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether a Host header names this machine: a web page that rebinds its name to 127.0.0.1 does not."""
    name = re.sub(r":\d{1,5}$", "", host)
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
