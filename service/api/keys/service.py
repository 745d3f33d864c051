"""Create, list, show and revoke API keys."""

import uuid
from typing import NamedTuple

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from service.api.idempotency import IdempotentRequest
from service.api.keys.schemas import CreatedKeyView, KeySpec, KeyView
from service.auth.api_keys import keys_exist
from service.auth.errors import LastAdminKey
from service.auth.principal import Scope
from service.core import api_key_format
from service.db.base import new_id
from service.db.models import ApiKey
from service.http.errors import NotFound, invalid
from service.http.pagination import Page, PageQuery, paged
from service.jobs import views


class CreatedKey(NamedTuple):
    """A new key and its secret, which is not stored."""

    row: ApiKey
    secret: str


def add_key(session: Session, spec: KeySpec, id: uuid.UUID | None = None) -> CreatedKey:
    """Add a key and return it with its secret. The caller commits."""
    secret = api_key_format.new_secret()
    row = ApiKey(
        **spec.model_dump(exclude={"scopes"}),
        id=id or new_id(),
        prefix=api_key_format.prefix_of(secret),
        hash=api_key_format.digest_of(secret),
        scopes=sorted(set(spec.scopes)),
    )
    session.add(row)
    session.flush()
    return CreatedKey(row, secret)


def create(session: Session, spec: KeySpec, idempotency: IdempotentRequest) -> CreatedKeyView:
    """Create a key and return it with its secret, which is None for a repeated request.

    Raises IdempotencyMismatch, or Invalid if the first key is not an admin key.
    """
    id = new_id()
    if (earlier := idempotency.claim(session, id)) is not None:
        return views.from_row(CreatedKeyView, find(session, earlier), key=None)
    if Scope.ADMIN not in spec.scopes and not keys_exist(session):
        msg = "The first key must have the scope `admin`: once it exists, creating keys requires an admin key"
        raise invalid(["body", "scopes"], msg, "first_key")
    secret = add_key(session, spec, id).secret
    session.commit()
    return views.from_row(CreatedKeyView, find(session, id), key=secret)


def list_keys(session: Session, query: PageQuery) -> Page[KeyView]:
    """Return a page of all keys, including revoked keys, newest first."""
    return paged(session, select(ApiKey), (ApiKey.id,), query, KeyView.model_validate)


def find(session: Session, id: uuid.UUID) -> ApiKey:
    """Return the key with the given id. Raises NotFound if it does not exist."""
    row = session.get(ApiKey, id)
    if row is None:
        raise NotFound(f"Key {id} not found")
    return row


def show(session: Session, id: uuid.UUID) -> KeyView:
    """Return a key without its secret. Raises NotFound if it does not exist."""
    return KeyView.model_validate(find(session, id))


def revoke(session: Session, id: uuid.UUID, *, protect_last_admin: bool = True) -> KeyView:
    """Revoke a key. Revoking it again has no effect.

    Raises NotFound, or LastAdminKey if `protect_last_admin` is set and this is the last valid admin key.
    """
    # Lock all admin keys in a fixed order, so that two keys that revoke each other concurrently cannot both succeed.
    admins = session.scalars(
        select(ApiKey).where(ApiKey.scopes.contains([Scope.ADMIN])).order_by(ApiKey.id).with_for_update(key_share=True)
    )
    valid = {row.id for row in admins if KeyView.model_validate(row).state == "active"}
    if protect_last_admin and valid == {id}:
        raise LastAdminKey
    find(session, id)
    session.execute(
        update(ApiKey)
        .where(ApiKey.id == id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=func.now())
        .execution_options(synchronize_session=False)
    )
    session.commit()
    session.expire_all()
    return show(session, id)
