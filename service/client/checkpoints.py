"""Checkpoints: lists, resumable downloads, archives, imports."""

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import httpx

from service.api.checkpoints.schemas import CheckpointFileView, CheckpointSummary, CheckpointView
from service.client.errors import ApiError
from service.client.transport import BLOCK_BYTES, Id, Transport


class Checkpoints(Transport):
    """The routes under `/checkpoints`."""

    def checkpoints(
        self,
        run: Id | None = None,
        *,
        model: str | None = None,
        imported: bool | None = None,
        deleted: bool | None = None,
    ) -> Iterator[CheckpointSummary]:
        """The checkpoints of a run by decreasing step, or all matching checkpoints, newest first."""
        if run is not None:
            return self._pages(CheckpointSummary, f"/runs/{run}/checkpoints")
        return self._pages(
            CheckpointSummary, "/checkpoints", {"model": model, "imported": imported, "deleted": deleted}
        )

    def checkpoint(self, id: Id) -> CheckpointView:
        """A checkpoint with its files."""
        return self._read(CheckpointView, "GET", f"/checkpoints/{id}")

    def download(self, checkpoint: Id, directory: Path) -> list[Path]:
        """Save all files of a checkpoint in `directory` and verify their hashes.

        An interrupted transfer is continued, also by the next call; a file exists only once it is complete.
        """
        return [self._download_file(file, directory) for file in self.checkpoint(checkpoint).files]

    def archive(self, checkpoint: Id, file: Path, *, training: bool = False) -> Path:
        """Save a checkpoint as one tar file: weights, model card, spec, curves; `training` adds the training state."""
        query = {"training": True} if training else {}
        return self._save(f"/checkpoints/{checkpoint}/archive", "application/x-tar", query, file)

    def delete_checkpoint(self, id: Id) -> None:
        """Delete the files of a checkpoint; its metadata is preserved."""
        self._send("DELETE", f"/checkpoints/{id}")

    def import_checkpoint(
        self, file: Path, model: str, *, name: str = "", lora_alpha: float | None = None
    ) -> CheckpointView:
        """Import a LoRA file (safetensors, as saved by diffusers) to start runs from and generate images with."""
        query = {"model": model, "name": name, "lora_alpha": lora_alpha}
        headers = {"Content-Type": "application/octet-stream"}
        return self._read(CheckpointView, "POST", "/checkpoints", query, headers=headers, file=file)

    def _download_file(self, file: CheckpointFileView, directory: Path) -> Path:
        """Save a file of a checkpoint in `directory` under its name and verify its hash.

        Received bytes are stored as `.NAME.part`, and the next call continues from them. A file that exists with the
        right hash is not downloaded again. Raises ApiError, OSError.
        """
        path = _local_path(directory, file.name)
        if path.is_file() and path.stat().st_size == file.size and _sha256(path) == file.sha256:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.touch()
        while part.stat().st_size < file.size:
            self._retry(lambda: self._append(file, part))
        if _sha256(part) != file.sha256:
            part.unlink()
            raise ApiError(f"{file.name} is corrupt: its SHA-256 is not {file.sha256}", code="download_damaged")
        return part.replace(path)

    def _append(self, file: CheckpointFileView, part: Path) -> None:
        """Append the bytes of one request to `part`. Raises ApiError if it brings none."""
        size = part.stat().st_size
        # The service verifies the hash of a whole file while sending it, but not that of a range.
        headers = {"Range": f"bytes={size}-", "If-Range": f'"{file.sha256}"'} if size else {}
        try:
            with (
                self._stream("GET", file.url, None, headers) as response,
                part.open("ab" if response.status_code == httpx.codes.PARTIAL_CONTENT else "wb") as output,
            ):
                output.writelines(response.iter_bytes(BLOCK_BYTES))
        except ApiError:
            if part.stat().st_size <= size:
                raise


def _local_path(directory: Path, name: str) -> Path:
    """The path of a file in `directory`. Raises ApiError for a name that leads out of it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.name:
        raise ApiError(f"Invalid file name {name!r}: it is outside {directory}", code="foreign_path")
    return directory / path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
