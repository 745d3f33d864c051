"""Request and response models for API keys."""

from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StringConstraints, computed_field, field_validator

from service.auth.api_keys import ENVIRONMENT
from service.auth.principal import Scope
from service.contracts.base import ONE_LINE, Contract, Moment
from service.http.pagination import RowView

KeyName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100), ONE_LINE]
Limit = Annotated[int, Field(ge=1, le=1_000_000)]


class KeySpec(Contract):
    """An API key to create."""

    name: KeyName = Field(description="The owner or the purpose of the key.")
    scopes: tuple[Scope, ...] = Field(
        min_length=1, max_length=3, description="`admin` includes `write`, and `write` includes `read`."
    )
    expires_at: Moment | None = Field(None, description="When the key expires; null if it never expires.")
    max_open_jobs: Limit | None = Field(
        None, description="Maximum number of jobs that are neither ended nor paused; null for the default."
    )
    requests_per_minute: Limit | None = Field(None, description="Maximum requests per minute; null for the default.")

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name == ENVIRONMENT:
            raise ValueError(f"The name {ENVIRONMENT!r} is reserved for the key in G2RPO_ADMIN_KEY; use another name")
        return name

    @field_validator("expires_at")
    @classmethod
    def _in_future(cls, expires_at: datetime | None) -> datetime | None:
        if expires_at is not None and expires_at <= datetime.now(UTC):
            raise ValueError(f"Invalid expires_at {expires_at:%Y-%m-%dT%H:%M:%S%z}; must be in the future")
        return expires_at


class KeyView(RowView):
    """An API key without its secret."""

    id: UUID
    name: str
    prefix: str = Field(description="The first characters of the key.")
    scopes: list[Scope]
    max_open_jobs: int | None = Field(description="Null for the default.")
    requests_per_minute: int | None = Field(description="Null for the default.")
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="Accurate to one minute.")

    @computed_field(description="Whether the key is active, revoked or expired.")  # type: ignore[prop-decorator]
    @property
    def state(self) -> Literal["active", "revoked", "expired"]:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= datetime.now(UTC) else "active"


class CreatedKeyView(KeyView):
    """A new API key with its secret."""

    key: str | None = Field(
        description="The secret, for `Authorization: Bearer …`. It is shown in this response only; null for a repeated "
        "request with the same Idempotency-Key. If it was lost, revoke the key and create another."
    )
