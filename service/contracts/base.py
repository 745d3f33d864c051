"""The base of every contract model: unknown fields are refused, values are immutable."""

from functools import cache
from typing import Annotated, Any, get_args

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, StringConstraints, field_validator
from pydantic import ValidationInfo as Info


class Contract(BaseModel):
    """Frozen, strict about names, and free of NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: Info) -> Any:
        values = value if isinstance(value, list) else [value]
        if any(isinstance(one, bool) for one in values) and info.field_name is not None:
            annotation: Any = cls.model_fields[info.field_name].annotation
            if _takes_numbers(annotation):
                raise ValueError("here belongs a number, not true or false")
        return value


@cache
def _takes_numbers(annotation: Any) -> bool:
    return annotation in (int, float) or any(_takes_numbers(part) for part in get_args(annotation))


def _written_out(value: Any) -> Any:
    """`value`, unless it is a number, which would be taken for seconds since 1970. Raises ValueError."""
    try:
        float(value)
    except (TypeError, ValueError):
        return value
    except OverflowError:  # an integer of more than 308 digits
        raise ValueError("a time is written as in 2026-01-31T12:00:00Z, not as a number") from None
    raise ValueError("a time is written as in 2026-01-31T12:00:00Z")


Moment = Annotated[AwareDatetime, BeforeValidator(_written_out)]
"""A time with its offset from UTC, as ISO 8601 writes it."""


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
"""A name looked up in the catalog: lower-case letters, digits, dot, dash, underscore; at most 63 characters."""

Prompt = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000, pattern=r"^[^\x00]*$")]
"""A prompt: 1 to 2000 characters after trimming, no NUL (PostgreSQL cannot store it)."""
