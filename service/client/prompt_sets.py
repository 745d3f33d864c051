"""Client methods for prompt sets."""

from collections.abc import Iterator
from pathlib import Path

from service.api.prompt_sets.schemas import PromptSetUpload, PromptSetView, PromptView
from service.client.transport import Transport, media_type

_MEDIA_TYPES = {".txt": "text/plain", ".jsonl": "application/jsonl", ".ndjson": "application/jsonl", ".csv": "text/csv"}


class PromptSets(Transport):
    """The routes under `/prompt-sets`."""

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
        """Upload a `.txt`, `.jsonl` or `.csv` file of prompts. `heldout` splits it into NAME-train and NAME-heldout."""
        headers = {"Content-Type": media_type(file, _MEDIA_TYPES)}
        query = {"name": name, "description": description, "heldout": heldout, "seed": seed, "skip_bad": skip_bad}
        return self._read(PromptSetUpload, "POST", "/prompt-sets", query, headers=headers, file=file)

    def prompt_sets(self) -> Iterator[PromptSetView]:
        """Iterate over all prompt sets, both from the catalog and uploaded, ordered by name."""
        return self._pages(PromptSetView, "/prompt-sets")

    def prompt_set(self, name: str) -> PromptSetView:
        """Return a prompt set with its counts."""
        return self._read(PromptSetView, "GET", f"/prompt-sets/{name}")

    def prompts(self, name: str) -> Iterator[PromptView]:
        """Iterate over the prompts of an uploaded set."""
        return self._pages(PromptView, f"/prompt-sets/{name}/items")

    def delete_prompt_set(self, name: str) -> None:
        """Delete an uploaded prompt set that no unfinished run uses."""
        self._send("DELETE", f"/prompt-sets/{name}")
