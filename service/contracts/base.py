"""The base of every contract model: unknown fields are refused, values are immutable."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints


class Contract(BaseModel):
    """Frozen, strict about names, and free of NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
"""A name looked up in the catalog: lower-case letters, digits, dot, dash, underscore; at most 63 characters."""

Prompt = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000, pattern=r"^[^\x00]*$")]
"""A prompt: 1 to 2000 characters after trimming, no NUL (PostgreSQL cannot store it)."""
