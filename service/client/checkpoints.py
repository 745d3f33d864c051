"""Checkpoints: listing, downloading, importing, deleting."""

from collections.abc import Iterator
from pathlib import Path

from service.api.checkpoints.schemas import CheckpointSummary, CheckpointView
from service.client import download
from service.client.transport import Id, Query, Transport, blocks


class Checkpoints:
    """The routes under `/checkpoints`."""

    _transport: Transport

    def checkpoints(
        self,
        run: Id | None = None,
        *,
        model: str | None = None,
        imported: bool | None = None,
        deleted: bool | None = None,
    ) -> Iterator[CheckpointSummary]:
        """A run's checkpoints, newest step first; without a run all that fit, newest first. Fetched page by page."""
        if run is not None:
            return self._transport.pages(CheckpointSummary, f"/runs/{run}/checkpoints", {})
        query: Query = {"model": model, "imported": imported, "deleted": deleted}
        return self._transport.pages(CheckpointSummary, "/checkpoints", query)

    def checkpoint(self, id: Id) -> CheckpointView:
        """A checkpoint with its files."""
        return self._transport.read(CheckpointView, "GET", f"/checkpoints/{id}")

    def download(self, checkpoint: Id, directory: Path) -> list[Path]:
        """Save all files of a checkpoint in `directory`, checked against their hashes.

        A broken transfer goes on where it broke off; a file has its name only when it is whole.
        """
        return [download.save(self._transport, file, directory) for file in self.checkpoint(checkpoint).files]

    def archive(self, checkpoint: Id, file: Path, *, training: bool = False) -> Path:
        """Save a checkpoint as one tar file: weights, model card, spec, curves.

        It has its name only when it is whole.
        """
        path, query = f"/checkpoints/{checkpoint}/archive", {"training": "true"} if training else {}
        return self._transport.patiently(lambda: download.save_whole(self._transport, path, query, file))

    def delete_checkpoint(self, id: Id) -> None:
        """Delete a checkpoint's files; its row stays for what came from it."""
        self._transport.send("DELETE", f"/checkpoints/{id}")

    def import_checkpoint(
        self, file: Path, model: str, *, name: str = "", lora_alpha: float | None = None
    ) -> CheckpointView:
        """Send a LoRA file (safetensors, as diffusers saves it) that runs can start from and images be drawn with."""
        query: Query = {"model": model, "name": name, "lora_alpha": lora_alpha}
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(file.stat().st_size)}
        return self._transport.read(
            CheckpointView, "POST", "/checkpoints", query, headers=headers, body=lambda: blocks(file)
        )
