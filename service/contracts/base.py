"""The base of the contracts: unknown fields are refused, values are immutable."""

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
    """Immutable data from a worker. NaN and infinity are written as null."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Contract(BaseModel):
    """Immutable data without unknown fields, NaN or infinity."""

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
    """`value`, unless it is a number, which pydantic would interpret as seconds since 1970. Raises ValueError."""
    try:
        float(value)
    except (TypeError, ValueError):
        return value
    except OverflowError:  # an integer of more than 308 digits
        pass
    raise ValueError("Input should be a time such as 2026-01-31T12:00:00Z, not a number")


def refuse_repeated(items: Items) -> Items:
    """`items`. Raises ValueError if one occurs more than once."""
    if repeated := [str(item) for item, count in Counter(items).items() if count > 1]:
        raise ValueError(f"{', '.join(repeated)} given more than once; items must be distinct")
    return items


Moment = Annotated[AwareDatetime, BeforeValidator(_refuse_number_as_time)]
"""A time with its offset from UTC, in ISO 8601."""

DISTINCT = AfterValidator(refuse_repeated)
"""The items of a sequence must be distinct."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
"""A name in the catalog: 1 to 63 lower-case letters, digits, dots, dashes and underscores."""

Prompt = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000, pattern=r"^[^\x00]*$")]
"""A prompt: 1 to 2000 characters after trimming, no NUL (PostgreSQL cannot store it)."""

DisplayName = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")]
"""A name for people: up to 200 characters."""


DenoisingSteps = Annotated[int, Field(ge=1, le=200)]
GuidanceScale = Annotated[float, Field(ge=0, le=30)]
Pixels = Annotated[int, Field(ge=16, le=4096, multiple_of=16)]


class ImageOptions(Contract):
    """Optional settings of image generation. Null: the model's default."""

    steps: DenoisingSteps | None = Field(None, description="Number of denoising steps; null: the model's default.")
    guidance: GuidanceScale | None = Field(None, description="Guidance scale; null: the model's default.")
    width: Pixels | None = Field(None, description="Image width in pixels; null: the model's default.")
    height: Pixels | None = Field(None, description="Image height in pixels; null: the model's default.")
