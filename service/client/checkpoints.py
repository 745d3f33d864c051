"""Client methods to list, download, archive, import and delete checkpoints."""

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
        """Iterate over the checkpoints of a run by decreasing step, or over all matching checkpoints, newest first."""
        if run is not None:
            return self._pages(CheckpointSummary, f"/runs/{run}/checkpoints")
        return self._pages(
            CheckpointSummary, "/checkpoints", {"model": model, "imported": imported, "deleted": deleted}
        )

    def checkpoint(self, id: Id) -> CheckpointView:
        """Return a checkpoint with its files."""
        return self._read(CheckpointView, "GET", f"/checkpoints/{id}")

    def download(self, checkpoint: Id, directory: Path) -> list[Path]:
        """Save all files of a checkpoint in `directory` and verify their hashes.

        An interrupted transfer is resumed, if necessary by the next call. A file is created only once it is complete.
        """
        return [self._download_file(file, directory) for file in self.checkpoint(checkpoint).files]

    def archive(self, checkpoint: Id, file: Path, *, training: bool = False) -> Path:
        """Save a checkpoint with its model card, spec and curves as a tar file, optionally with its training state."""
        query = {"training": True} if training else {}
        return self._save(f"/checkpoints/{checkpoint}/archive", "application/x-tar", query, file)

    def kohya_lora(self, checkpoint: Id, file: Path) -> Path:
        """Save the LoRA of a checkpoint in the format of kohya's sd-scripts, which ComfyUI reads."""
        return self._save(f"/checkpoints/{checkpoint}/kohya", "application/octet-stream", {}, file)

    def delete_checkpoint(self, id: Id) -> None:
        """Delete the files of a checkpoint. Its metadata is preserved."""
        self._send("DELETE", f"/checkpoints/{id}")

    def import_checkpoint(
        self, file: Path, model: str, *, name: str = "", lora_alpha: float | None = None
    ) -> CheckpointView:
        """Import a LoRA file, as saved by diffusers or sd-scripts, from which to start runs or generate images."""
        query = {"model": model, "name": name, "lora_alpha": lora_alpha}
        headers = {"Content-Type": "application/octet-stream"}
        return self._read(CheckpointView, "POST", "/checkpoints", query, headers=headers, file=file)

    def _download_file(self, file: CheckpointFileView, directory: Path) -> Path:
        """Save a file of a checkpoint in `directory` under its own name, and verify its hash.

        Received bytes are stored in `.NAME.part`, from which the next call continues. A file that already exists with
        the expected hash is not downloaded again. Raises ApiError or OSError.
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
        """Send one request and append the bytes received to `part`. Raises ApiError if it fails without adding any."""
        size = part.stat().st_size
        # The service verifies the hash of a whole file while sending it, but cannot verify that of a range.
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
    """Return the path for a file name within `directory`. Raises ApiError if the path is outside the directory."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.name:
        raise ApiError(f"Invalid file name {name!r}: it is outside {directory}", code="foreign_path")
    return directory / path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
