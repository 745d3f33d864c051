"""Prompt sets: sending, listing, reading, deleting."""

from collections.abc import Iterator
from pathlib import Path

from service.api.prompt_sets.schemas import PromptSetUpload, PromptSetView, PromptView
from service.client.errors import ApiError
from service.client.transport import Query, Transport, blocks

_MEDIA_TYPES = {
    ".txt": "text/plain",
    ".jsonl": "application/jsonl",
    ".ndjson": "application/jsonl",
    ".csv": "text/csv",
}


class PromptSets:
    """The routes under `/prompt-sets`."""

    _transport: Transport

    def create_prompt_set(
        self,
        file: Path,
        name: str,
        *,
        description: str = "",
        heldout: float | None = None,
        seed: int | None = None,
        skip_bad: bool = False,
    ) -> PromptSetUpload:
        """Send a file of prompts: `.txt`, `.jsonl` or `.csv`. With `heldout`, two sets: NAME-train and NAME-heldout."""
        media_type = _MEDIA_TYPES.get(file.suffix.lower())
        if media_type is None:
            raise ApiError(f"{file.name} must end in one of {', '.join(_MEDIA_TYPES)}", code="unknown_suffix")
        query: Query = {
            "name": name,
            "description": description,
            "heldout": heldout,
            "seed": seed,
            "skip_bad": str(skip_bad).lower(),
        }
        headers = {"Content-Type": media_type, "Content-Length": str(file.stat().st_size)}
        return self._transport.read(
            PromptSetUpload, "POST", "/prompt-sets", query, headers=headers, body=lambda: blocks(file)
        )

    def prompt_sets(self) -> Iterator[PromptSetView]:
        """The catalog's sets and the uploaded ones, by name, fetched page by page."""
        return self._transport.pages(PromptSetView, "/prompt-sets", {})

    def prompt_set(self, name: str) -> PromptSetView:
        """A set with its counts."""
        return self._transport.read(PromptSetView, "GET", f"/prompt-sets/{name}")

    def prompts(self, name: str) -> Iterator[PromptView]:
        """The prompts of an uploaded set, fetched page by page."""
        return self._transport.pages(PromptView, f"/prompt-sets/{name}/items", {})

    def delete_prompt_set(self, name: str) -> None:
        """Delete an uploaded set that no open run needs."""
        self._transport.send("DELETE", f"/prompt-sets/{name}")
