"""How keys are asked for and shown."""

from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, computed_field, field_validator

from service.auth.api_keys import ENVIRONMENT
from service.auth.principal import Scope
from service.contracts.base import Contract, Moment
from service.http.pagination import PageQuery

KeyName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")
]
Most = Annotated[int, Field(ge=1, le=1_000_000)]


class KeySpec(Contract):
    """A key to be made."""

    name: KeyName = Field(description="Whose it is, or what for.")
    scopes: tuple[Scope, ...] = Field(
        min_length=1, max_length=3, description="`admin` includes `write`, and `write` includes `read`."
    )
    expires_at: Moment | None = Field(None, description="From then on it is refused; null: never.")
    max_open_jobs: Most | None = Field(
        None, description="Most runs and generations of it that have not ended and do not rest; null: the setting's."
    )
    requests_per_minute: Most | None = Field(None, description="Most requests in a minute; null: the setting's.")

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name == ENVIRONMENT:
            raise ValueError(f"{ENVIRONMENT!r} is the name of the key that G2RPO_ADMIN_KEY says; take another")
        return name

    @field_validator("expires_at")
    @classmethod
    def _in_future(cls, expires_at: datetime | None) -> datetime | None:
        if expires_at is not None and expires_at <= datetime.now(UTC):
            raise ValueError("that time is over; it must lie in the future")
        return expires_at


class KeyFilters(PageQuery):
    """A page of keys."""


class KeyView(BaseModel):
    """A key, without its secret."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    prefix: str = Field(description="The key's beginning.")
    scopes: list[Scope]
    max_open_jobs: int | None = Field(description="Null: the setting's.")
    requests_per_minute: int | None = Field(description="Null: the setting's.")
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute.")

    @computed_field(description="Whether it is good.")  # type: ignore[prop-decorator]
    @property
    def state(self) -> Literal["active", "revoked", "expired"]:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= datetime.now(UTC) else "active"


class KeyMade(KeyView):
    """A new key, with its secret."""

    key: str | None = Field(
        description="What to send as `Authorization: Bearer …`. This answer alone shows it; null in an answer to the "
        "same Idempotency-Key again: revoke the key and make another if it was lost."
    )
