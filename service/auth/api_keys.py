"""Look up and validate API keys in the database, and record their last use."""

import hmac
import uuid
from datetime import datetime, timedelta
from typing import NamedTuple

import structlog
from sqlalchemy import Text, and_, cast, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.auth.errors import KeyExpired, KeyMissing, KeyRevoked, KeyUnknown
from service.auth.principal import AuthResult, Principal, Scope
from service.core import api_key_format
from service.db.base import new_id
from service.db.models import ApiKey

ENVIRONMENT = "environment"
"""Name of the key set in G2RPO_ADMIN_KEY."""
# Compare times with the database's clock, so that all API processes agree.
_EXPIRED = and_(ApiKey.expires_at.is_not(None), ApiKey.expires_at <= func.now())
_STALE = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - timedelta(minutes=1))
_SNAPSHOT = cast(func.pg_current_snapshot(), Text)
"""The snapshot of the statement, which changes whenever a transaction that modified data ends."""
log = structlog.get_logger()


class KeyLookup(NamedTuple):
    """The result of looking up the API key of a request."""

    result: AuthResult
    stale: bool
    """Whether the last use of the key should be recorded."""


def keys_exist(session: Session) -> bool:
    """Whether requests need a key. This is the case once the first key exists, even if all keys are revoked."""
    return keys_exist_with_snapshot(session)[0]


def keys_exist_with_snapshot(session: Session) -> tuple[bool, str]:
    """Return whether requests need a key, and the database snapshot."""
    found, snapshot = session.execute(select(exists(select(ApiKey.id)), _SNAPSHOT)).one()
    return found, snapshot


def look_up(session: Session, secret: str) -> KeyLookup:
    """Return the principal of a well-formed key. Raises KeyUnknown, KeyRevoked or KeyExpired."""
    query = select(ApiKey, _EXPIRED, _STALE, _SNAPSHOT).where(ApiKey.prefix == api_key_format.prefix_of(secret))
    row = session.execute(query).one_or_none()
    if row is None or not hmac.compare_digest(row[0].hash, api_key_format.digest_of(secret)):
        raise KeyUnknown("Unknown API key: it was not created by this service")
    key, expired, stale, snapshot = row
    _check_valid(key, expired)
    scopes = frozenset(Scope(scope) for scope in key.scopes)
    principal = Principal(key.id, key.name, scopes, key.prefix, key.requests_per_minute)
    return KeyLookup(AuthResult(principal, snapshot), stale)


def check(session: Session, key_id: uuid.UUID | None) -> None:
    """Raise Unauthorized unless the key that opened an event stream is still valid.

    A stream that was opened without a key (`key_id` is None) stays valid until the first key is created.
    """
    if key_id is None:
        if keys_exist(session):
            raise KeyMissing
        return
    row = session.execute(select(ApiKey, _EXPIRED).where(ApiKey.id == key_id)).one_or_none()
    if row is None:
        raise KeyUnknown("The API key no longer exists")
    _check_valid(*row)


def _check_valid(key: ApiKey, expired: bool) -> None:
    if key.revoked_at is not None:
        raise KeyRevoked(
            f"The API key {key.prefix} ({key.name}) was revoked at {_utc(key.revoked_at)}. Create another with "
            "`g2rpo keys create`"
        )
    if expired:
        assert key.expires_at is not None
        raise KeyExpired(
            f"The API key {key.prefix} ({key.name}) expired at {_utc(key.expires_at)}. Create another with "
            "`g2rpo keys create`"
        )


def _utc(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def record_use(session: Session, id: uuid.UUID | None) -> None:
    """Record the use of a key, at most once a minute and without waiting for locks."""
    # A request that counts open jobs locks the row of the key. In that case, a later request records the use.
    unlocked = select(ApiKey.id).where(ApiKey.id == id, _STALE).with_for_update(key_share=True, skip_locked=True)
    session.execute(
        update(ApiKey)
        .where(ApiKey.id.in_(unlocked))
        .values(last_used_at=func.now())
        .execution_options(synchronize_session=False)
    )
    session.commit()


def store_environment_key(session: Session, secret: str) -> None:
    """Store the key from G2RPO_ADMIN_KEY and revoke the previous one.

    Several API processes can call this concurrently. A key that was revoked stays revoked.
    """
    prefix = api_key_format.prefix_of(secret)
    row = {"id": new_id(), "name": ENVIRONMENT, "prefix": prefix, "hash": api_key_format.digest_of(secret)}
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
        log.warning("admin_key_revoked", key_prefix=prefix, hint="Set G2RPO_ADMIN_KEY to a new key")
    session.commit()
