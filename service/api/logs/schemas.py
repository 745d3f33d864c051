"""Query parameters and response of the log routes."""

from pydantic import BaseModel, Field

from service.http.pagination import StrictQuery


class LogQuery(StrictQuery):
    """Query parameters that select a part of a log."""

    attempt: int | None = Field(
        None, ge=1, le=2**31 - 1, description="The attempt; defaults to the newest attempt with output."
    )
    offset: int = Field(0, ge=0, le=2**63 - 1, description="Offset of the first byte to return.")
    limit: int | None = Field(
        None, ge=4, le=2**24, description="Maximum number of bytes to return; defaults to the server's limit."
    )


class LogPart(BaseModel):
    """Part of the log of an attempt."""

    attempt: int | None = Field(description="The attempt; null if no attempt has output.")
    offset: int = Field(description="Offset of the first byte of the text.")
    next_offset: int = Field(description="The `offset` of the next part.")
    size: int = Field(description="Current size of the attempt's log in bytes.")
    next_attempt: int | None = Field(
        description="The next attempt with output, to be read after this attempt's log; null if there is none."
    )
    text: str = Field(
        description="The text, never split inside a UTF-8 character. Invalid bytes are replaced.",
        examples=["step 12 of 60: reward 0.68\n"],
    )
