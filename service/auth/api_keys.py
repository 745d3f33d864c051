"""API keys in the database: which one a request shows, whether it is good, when it was last used."""

import hmac
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, LiteralString, NamedTuple

import structlog
from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.auth.errors import KeyExpired, KeyMissing, KeyRevoked, KeyUnknown
from service.auth.principal import LOCAL, Admitted, Caller, Scope
from service.core import security as secrets
from service.db.async_reader import Looks
from service.db.base import new_id
from service.db.models import ApiKey

ENVIRONMENT = "environment"
"""The name of the key that G2RPO_ADMIN_KEY says."""
_EXPIRED = and_(ApiKey.expires_at.is_not(None), ApiKey.expires_at <= func.now())
"""By the database's clock, so that all API processes agree."""
_USED_LONG_AGO = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - timedelta(minutes=1))
_SEEN: LiteralString = """
WITH seen AS (SELECT CAST(pg_current_snapshot() AS text) AS snapshot, CAST(NULL AS jsonb) AS ended)
"""
"""The database's snapshot. Nothing else may be in the way: a table that is locked must not stop every request."""
_RUNS_SEEN: LiteralString = """
WITH seen AS (SELECT CAST(pg_current_snapshot() AS text) AS snapshot, (
    SELECT jsonb_object_agg(r.id, concat(
        r.xmin, (SELECT string_agg(concat(' ', a.number, ':', a.xmin), '' ORDER BY a.number)
                 FROM attempts a WHERE a.run_id = r.id)))
    FROM runs r WHERE r.id = ANY(%s) AND r.status IN ('succeeded', 'failed', 'cancelled')
) AS ended)
"""
"""With it, which transactions wrote the rows of the runs that have ended, and of their attempts."""
_PRESENTED: LiteralString = """
SELECT snapshot, ended, id, name, prefix, hash, scopes, requests_per_minute, revoked_at, expires_at,
       expires_at IS NOT NULL AND expires_at <= now() AS expired,
       last_used_at IS NULL OR last_used_at < now() - interval '1 minute' AS stale
FROM api_keys, seen WHERE prefix = ANY(%s)
"""
_STANDING: LiteralString = "SELECT EXISTS (SELECT FROM api_keys), snapshot, ended FROM seen"
log = structlog.get_logger()


class Visit(NamedTuple):
    """A request as it is looked up: the key that it shows, of good form, and the run that it asks for."""

    key: str
    run: uuid.UUID | None


class Presented(NamedTuple):
    """What is known of a key that a request shows, and what the database showed with it."""

    snapshot: str
    ended: dict[str, str] | None
    id: uuid.UUID
    name: str
    prefix: str
    hash: str
    scopes: list[str]
    requests_per_minute: int | None
    revoked_at: datetime | None
    expires_at: datetime | None
    expired: bool
    """By the database's clock, so that all API processes agree."""
    stale: bool


class Recognised(NamedTuple):
    """The owner of a key, and whether its use was last noted a while ago."""

    admitted: Admitted
    stale: bool


def in_force(session: Session) -> bool:
    """Whether requests must show a key: since the first one was made, even if all are revoked."""
    return session.scalar(select(ApiKey.id).limit(1)) is not None


async def standing(looks: Looks, run: uuid.UUID | None) -> tuple[bool, Admitted]:
    """Whether keys are in force; if they are not, whoever asks from this machine is let in.

    The database's snapshot is another one as soon as any transaction that changed something has ended.
    """
    rows = await _look(looks, [] if run is None else [run], _STANDING)
    in_force, snapshot, ended = rows[0]
    return bool(in_force), Admitted(LOCAL, snapshot, _of(run, ended))


async def look_up(looks: Looks, visits: Sequence[Visit]) -> list[Presented | None]:
    """What is known of each visit's key, by one look at an index; None where there is none of its prefix."""
    runs = {visit.run for visit in visits if visit.run is not None}
    prefixes = [secrets.prefix_of(visit.key) for visit in visits]
    rows = await _look(looks, list(runs), _PRESENTED, list(set(prefixes)))
    known = {found.prefix: found for found in map(Presented._make, rows)}
    return [known.get(prefix) for prefix in prefixes]


def recognise(visit: Visit, known: Presented | None) -> Recognised:
    """The owner of a visit's key, by what was looked up. Raises Unauthorized."""
    if known is None or not hmac.compare_digest(known.hash, secrets.digest_of(visit.key)):
        raise KeyUnknown("this service has given out no such key; was it made for another one?")
    _check_good(known, known.expired)
    scopes = frozenset(Scope(scope) for scope in known.scopes)
    caller = Caller(known.id, known.name, scopes, known.prefix, known.requests_per_minute)
    return Recognised(Admitted(caller, known.snapshot, _of(visit.run, known.ended)), known.stale)


async def _look(looks: Looks, runs: list[uuid.UUID], query: LiteralString, *values: list[str]) -> list[tuple[Any, ...]]:
    if runs:
        return await looks.rows(_RUNS_SEEN + query, runs, *values)
    return await looks.rows(_SEEN + query, *values)


def _of(run: uuid.UUID | None, ended: dict[str, str] | None) -> str | None:
    return None if run is None or ended is None else ended.get(str(run))


def check(session: Session, key_id: uuid.UUID | None) -> None:
    """Raise Unauthorized unless a key that began something long is still good.

    A stream calls it now and then with its caller's `id`; None, of a caller without a key, is good until the first key
    is made.
    """
    if key_id is None:
        if in_force(session):
            raise KeyMissing
        return
    found = session.execute(select(ApiKey, _EXPIRED.label("expired")).where(ApiKey.id == key_id)).one_or_none()
    if found is None:
        raise KeyUnknown("this key is no longer known here")
    _check_good(found.ApiKey, found.expired)


def _check_good(key: ApiKey | Presented, expired: bool) -> None:
    if key.revoked_at is not None:
        raise KeyRevoked(f"the key {key.prefix} ({key.name}) was revoked at {_utc(key.revoked_at)}; ask for another")
    if expired:
        assert key.expires_at is not None
        raise KeyExpired(f"the key {key.prefix} ({key.name}) expired at {_utc(key.expires_at)}; ask for another")


def _utc(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def note_use(session: Session, id: uuid.UUID | None) -> None:
    """Note that a key was used, once a minute; it waits for nobody."""
    # Somebody who is counting the key's jobs holds its row: the note can wait for another request.
    free = select(ApiKey.id).where(ApiKey.id == id, _USED_LONG_AGO).with_for_update(key_share=True, skip_locked=True)
    session.execute(
        update(ApiKey)
        .where(ApiKey.id.in_(free))
        .values(last_used_at=func.now())
        .execution_options(synchronize_session=False)
    )
    session.commit()


def store_environment_key(session: Session, secret: str) -> None:
    """Have the key that G2RPO_ADMIN_KEY says, in place of the one that it said before.

    Several API processes may do this at once. A key that was revoked stays revoked, whatever the variable says.
    """
    prefix = secrets.prefix_of(secret)
    row = {"id": new_id(), "name": ENVIRONMENT, "prefix": prefix, "hash": secrets.digest_of(secret)}
    inserting = insert(ApiKey).values(**row, scopes=[Scope.ADMIN]).on_conflict_do_nothing().returning(ApiKey.id)
    if session.scalar(inserting) is not None:
        session.execute(
            update(ApiKey)
            .where(ApiKey.name == ENVIRONMENT, ApiKey.prefix != prefix, ApiKey.revoked_at.is_(None))
            .values(revoked_at=func.now())
            .execution_options(synchronize_session=False)
        )
        log.info("admin_key_stored", key_prefix=prefix)
    elif session.scalars(select(ApiKey).where(ApiKey.prefix == prefix)).one().revoked_at is not None:
        log.warning("admin_key_revoked", key_prefix=prefix, hint="G2RPO_ADMIN_KEY says a revoked key; make another")
    session.commit()
