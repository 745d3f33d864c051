"""Base classes and common field types of the contracts."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationInfo,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

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

CONTROL = r"\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"
"""Control characters other than line ends and tabs, as a part of a character class."""


@dataclass(frozen=True)
class Without:
    """Annotation of a string type that refuses characters. It comes last, after the constraints of the type."""

    characters: str
    """The refused characters, as the content of a character class."""
    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._refuse, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"pattern": f"^[^{self.characters}]*$"}

    def _refuse(self, text: Any) -> Any:
        if isinstance(text, str) and (found := re.search(f"[{self.characters}]", text)):
            raise ValueError(f"character {found.start() + 1} is U+{ord(found[0]):04X}; {self.kind} are not allowed")
        return text


ONE_LINE = Without(
    r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069",
    "control characters, bidirectional controls and line separators",
)
"""For names, labels and titles: one line of text that cannot reorder or hide the text around it."""
FREE_TEXT = Without(CONTROL, "control characters other than line ends and tabs")
"""For text of several lines."""

Prompt = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000), FREE_TEXT]
"""A prompt of 1 to 2000 characters after trimming."""

DisplayName = Annotated[str, StringConstraints(max_length=200), ONE_LINE]
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
