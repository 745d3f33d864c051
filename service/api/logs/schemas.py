"""Query and view of logs."""

from pydantic import BaseModel, ConfigDict, Field


class LogQuery(BaseModel):
    """The part of a log to show."""

    model_config = ConfigDict(extra="forbid")

    attempt: int | None = Field(None, ge=1, le=2**31 - 1, description="The attempt; default: the newest with output.")
    offset: int = Field(0, ge=0, le=2**63 - 1, description="The first byte.")
    limit: int | None = Field(
        None,
        ge=4,
        le=2**24,
        description="Maximum bytes; the default is the limit.",
    )


class LogPart(BaseModel):
    """A part of the log of an attempt."""

    attempt: int | None = Field(description="Null if no attempt has output.")
    offset: int = Field(description="The first byte of the text.")
    next_offset: int = Field(description="The `offset` of the next part.")
    size: int = Field(description="Bytes of the attempt's log so far.")
    next_attempt: int | None = Field(
        description="The next attempt with output, to read after the rest of this attempt's log."
    )
    text: str = Field(
        description="UTF-8, cut between characters; invalid bytes are replaced.",
        examples=["step 12 of 60: reward 0.68\n"],
    )
