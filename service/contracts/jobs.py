"""The files through which a supervisor and its child process speak, all inside the attempt's own directory."""

from typing import Any, Literal

from pydantic import Field

from service.contracts.base import Contract

SPEC_FILE = "spec.json"
EVENTS_FILE = "events.jsonl"
LOG_FILE = "log.txt"
CONTROL_FILE = "control.json"
ENCODINGS = "encodings"
"""Directory of the encoded prompts that a run on a GPU keeps."""
PARENT_FD = "G2RPO_PARENT_FD"
"""Environment variable naming the file descriptor whose end of file tells the child that its supervisor died."""


class Control(Contract):
    """What the supervisor asks of a running child; written by rename, polled between steps and rollout batches."""

    action: Literal["checkpoint", "pause", "cancel"] = Field(
        description="`checkpoint`: save after this step and go on; `pause`: save what is done and end; `cancel`: end."
    )
    request: int = Field(0, description="Counts requests for a checkpoint; the saved one says which it answers.")


class CheckpointFile(Contract):
    """One file of a checkpoint."""

    name: str = Field(description="Relative to the checkpoint's directory.")
    sha256: str
    size: int = Field(description="Bytes.")


class CheckpointManifest(Contract):
    """What a checkpoint directory holds. Written last: a directory without it is not a checkpoint."""

    format: Literal[1] = 1
    model: str = Field(description="Catalog name of the model it belongs to.")
    architecture: str | None = Field(
        description="Hash of the transformer's configuration; a start must have the same. Null for imported weights, "
        "whose shapes alone are checked."
    )
    kind: Literal["lora", "full"]
    step: int
    lora_rank: int | None = None
    lora_alpha: float | None = None
    spec: dict[str, Any] | None = Field(
        description="Resolved spec of the run that made it: a record, never read again. Null for imported weights."
    )
    files: tuple[CheckpointFile, ...]


MANIFEST_FILE = "manifest.json"
