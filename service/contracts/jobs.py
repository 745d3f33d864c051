"""The files that a supervisor and its child process exchange, in the directory of the attempt."""

from typing import Any, Literal

from pydantic import Field

from service.contracts.base import Contract

SPEC_FILE = "spec.json"
EVENTS_FILE = "events.jsonl"
LOG_FILE = "log.txt"
CONTROL_FILE = "control.json"
ENCODINGS = "encodings"
"""Directory of the prompt encodings that a run caches."""
PARENT_FD = "G2RPO_PARENT_FD"
"""Environment variable with the file descriptor whose end of file signals the death of the supervisor."""


class Control(Contract):
    """A request of the supervisor to a running child; written by rename, polled between steps and rollout batches."""

    action: Literal["checkpoint", "pause", "cancel"] = Field(
        description="`checkpoint`: save after this step and continue; `pause`: save and end; `cancel`: end."
    )
    request: int = Field(0, description="Number of the checkpoint request; the saved checkpoint repeats it.")


class CheckpointFile(Contract):
    """One file of a checkpoint."""

    name: str = Field(description="Relative to the checkpoint's directory.")
    sha256: str
    size: int = Field(description="Bytes.")


class CheckpointManifest(Contract):
    """The contents of a checkpoint directory. Written last: a directory without it is incomplete."""

    format: Literal[1] = 1
    model: str = Field(description="Catalog name of the base model.")
    architecture: str | None = Field(
        description="Hash of the transformer's configuration, which must match at a start. Null for imported weights, "
        "of which only the shapes are checked."
    )
    kind: Literal["lora", "full"]
    step: int
    lora_rank: int | None = None
    lora_alpha: float | None = None
    spec: dict[str, Any] | None = Field(description="Resolved spec of the run, for information; null for imports.")
    files: tuple[CheckpointFile, ...]


MANIFEST_FILE = "manifest.json"
