"""Files in an attempt's directory through which the supervisor and its child process communicate."""

from typing import Any, Literal

from pydantic import Field

from service.contracts.base import Contract

SPEC_FILE = "spec.json"
EVENTS_FILE = "events.jsonl"
LOG_FILE = "log.txt"
CONTROL_FILE = "control.json"
ENCODINGS = "encodings"
"""Directory in which a run caches its prompt encodings."""
PARENT_FD = "G2RPO_PARENT_FD"
"""Environment variable that contains a file descriptor; end of file on it means that the supervisor has died."""


class Control(Contract):
    """A request from the supervisor to a running child process.

    The file is written atomically by rename. The child polls it between steps and rollout batches.
    """

    action: Literal["checkpoint", "pause", "cancel"] = Field(
        description="`checkpoint`: save after this step and continue; `pause`: save and end; `cancel`: end."
    )
    request: int = Field(
        0, description="Number of the checkpoint request, which is copied to the `CheckpointSaved` event."
    )


class CheckpointFile(Contract):
    """One file in a checkpoint directory."""

    name: str = Field(description="Path relative to the checkpoint directory.")
    sha256: str
    size: int = Field(description="Bytes.")


class CheckpointManifest(Contract):
    """Describes the contents of a checkpoint directory.

    It is written last, so a directory without a manifest is incomplete.
    """

    format: Literal[1] = 1
    model: str = Field(description="Catalog name of the base model.")
    architecture: str | None = Field(
        description="Hash of the transformer's configuration, which must match the model's. Null for imported weights, "
        "for which only the shapes are checked."
    )
    kind: Literal["lora", "full"]
    step: int
    lora_rank: int | None = None
    lora_alpha: float | None = None
    spec: dict[str, Any] | None = Field(description="Resolved spec of the run, for information; null for imports.")
    files: tuple[CheckpointFile, ...]


MANIFEST_FILE = "manifest.json"
