"""How logs are asked for and shown."""

from pydantic import BaseModel, ConfigDict, Field


class LogQuery(BaseModel):
    """From which byte of which attempt's log on."""

    model_config = ConfigDict(extra="forbid")

    attempt: int | None = Field(None, ge=1, le=2**31 - 1, description="The attempt; unset: the newest that printed.")
    offset: int = Field(0, ge=0, le=2**63 - 1, description="From this byte on.")
    limit: int | None = Field(None, ge=4, le=2**24, description="Most bytes; unset, or more than that: the setting's.")


class LogPart(BaseModel):
    """A part of what an attempt's child process printed."""

    attempt: int | None = Field(description="Null when no attempt has printed anything.")
    offset: int = Field(description="The byte the text begins at.")
    next_offset: int = Field(description="Ask again with `offset=` this for what follows.")
    size: int = Field(description="Bytes of this attempt's log so far.")
    next_attempt: int | None = Field(
        description="The next attempt that has printed something: read this one's rest, then go on with that one's."
    )
    text: str = Field(
        description="UTF-8, cut between characters; bytes that are no UTF-8 are replaced.",
        examples=["step 12 of 60: reward 0.68\n"],
    )
