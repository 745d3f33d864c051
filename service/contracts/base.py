"""Base classes and common field types of the contracts."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, TypeVar, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

Items = TypeVar("Items", bound=Sequence[Any])


class Record(BaseModel):
    """Base class of immutable data written by a worker. NaN and infinity are serialized as null."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Contract(BaseModel):
    """Base class of immutable data that rejects unknown fields, NaN, infinity, and booleans in place of numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_boolean_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        values = value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) for item in values) and info.field_name is not None:
            annotation: Any = cls.model_fields[info.field_name].annotation
            if _has_numbers(annotation):
                raise ValueError("Input should be a number, not true or false")
        return value


@cache
def _has_numbers(annotation: Any) -> bool:
    return annotation in (int, float) or any(_has_numbers(part) for part in get_args(annotation))


def _refuse_number_as_time(value: Any) -> Any:
    """Return `value`. Raises ValueError for a number, which pydantic would interpret as seconds since 1970."""
    try:
        float(value)
    except (TypeError, ValueError):
        return value
    except OverflowError:  # an integer of more than 308 digits
        pass
    raise ValueError("Input should be a time such as 2026-01-31T12:00:00Z, not a number")


def refuse_repeated(items: Items) -> Items:
    """Return `items`. Raises ValueError if an item occurs more than once."""
    if repeated := [str(item) for item, count in Counter(items).items() if count > 1]:
        raise ValueError(f"{', '.join(repeated)} given more than once; items must be distinct")
    return items


Moment = Annotated[AwareDatetime, BeforeValidator(_refuse_number_as_time)]
"""An ISO 8601 time with a UTC offset."""

DISTINCT = AfterValidator(refuse_repeated)
"""Validator that requires the items of a sequence to be distinct."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
"""A catalog name: 1 to 63 lowercase letters, digits, dots, hyphens or underscores, starting with a letter or digit."""

Prompt = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000, pattern=r"^[^\x00]*$")]
"""A prompt of 1 to 2000 characters after trimming, without NUL, which PostgreSQL cannot store."""

DisplayName = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")]
"""A display name of up to 200 characters."""


DenoisingSteps = Annotated[int, Field(ge=1, le=200)]
GuidanceScale = Annotated[float, Field(ge=0, le=30)]
Pixels = Annotated[int, Field(ge=16, le=4096, multiple_of=16)]


class ImageOptions(Contract):
    """Optional image generation settings. The default for null is the model's default."""

    steps: DenoisingSteps | None = Field(None, description="Number of denoising steps; null: the model's default.")
    guidance: GuidanceScale | None = Field(None, description="Guidance scale; null: the model's default.")
    width: Pixels | None = Field(None, description="Image width in pixels; null: the model's default.")
    height: Pixels | None = Field(None, description="Image height in pixels; null: the model's default.")
