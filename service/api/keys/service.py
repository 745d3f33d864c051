"""The rules of keys."""

import uuid
from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from service.api.idempotency import IdempotentRequest
from service.api.keys.schemas import KeyFilters, KeyMade, KeySpec, KeyView
from service.auth.api_keys import keys_exist
from service.auth.errors import LastAdminKey
from service.auth.principal import Scope
from service.core import security as secrets
from service.db.base import new_id
from service.db.models import ApiKey
from service.http.errors import NotFound, invalid
from service.http.pagination import Page, paged


@dataclass(frozen=True)
class CreatedKey:
    """A key that was just made; `secret` is known to nobody else."""

    row: ApiKey
    secret: str


def make(session: Session, spec: KeySpec, id: uuid.UUID | None = None) -> CreatedKey:
    """Add a key. The caller commits."""
    secret = secrets.new_secret()
    row = ApiKey(
        id=id or new_id(),
        name=spec.name,
        prefix=secrets.prefix_of(secret),
        hash=secrets.digest_of(secret),
        scopes=sorted(set(spec.scopes)),
        max_open_jobs=spec.max_open_jobs,
        requests_per_minute=spec.requests_per_minute,
        expires_at=spec.expires_at,
    )
    session.add(row)
    session.flush()
    return CreatedKey(row, secret)


def create(session: Session, spec: KeySpec, idempotency: IdempotentRequest) -> KeyMade:
    """Make a key. The first one must be able to make others: from then on every request needs one."""
    id = new_id()
    if (known := idempotency.claim(session, id)) is not None:
        return KeyMade(**show(session, known).model_dump(), key=None)
    if Scope.ADMIN not in spec.scopes and not keys_exist(session):
        msg = "the first key must have the scope `admin`: from then on every request needs a key, also to make keys"
        raise invalid(["body", "scopes"], msg, "first_key")
    made = make(session, spec, id)
    session.commit()
    return KeyMade(**show(session, id).model_dump(), key=made.secret)


def listing(session: Session, filters: KeyFilters) -> Page[KeyView]:
    """All keys, newest first, revoked ones too."""
    return paged(session, select(ApiKey), (ApiKey.id,), filters, KeyView.model_validate)


def find(session: Session, id: uuid.UUID) -> ApiKey:
    """The key of that id. Raises NotFound."""
    row = session.get(ApiKey, id)
    if row is None:
        raise NotFound(f"there is no key {id}")
    return row


def show(session: Session, id: uuid.UUID) -> KeyView:
    """A key without its secret. Raises NotFound."""
    return KeyView.model_validate(find(session, id))


def revoke(session: Session, id: uuid.UUID, *, spare_last_admin: bool = True) -> KeyView:
    """Take a key back; twice is the same. Raises NotFound, and LastAdminKey where it is to be spared."""
    # All admin keys are locked, in one order: of two that revoke each other at once, one finds itself the last.
    admins = session.scalars(
        select(ApiKey).where(ApiKey.scopes.contains([Scope.ADMIN])).order_by(ApiKey.id).with_for_update(key_share=True)
    )
    good = {row.id for row in admins if KeyView.model_validate(row).state == "active"}
    if spare_last_admin and good == {id}:
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
