"""Where the catalog's weights lie on this machine."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import snapshot_download

from service.contracts.catalog import Source

_BUNDLED = Path(__file__).parents[1] / "shapes" / "weights"


def locate(source: Source) -> tuple[str, str | None]:
    """What `from_pretrained` wants: a directory or hub id, and a revision. ValueError where a directory is missing."""
    if source.hub:
        return source.hub, source.revision
    directory = _BUNDLED / source.bundled if source.bundled else source.directory
    if directory is None or not directory.is_dir():
        raise ValueError(f"the catalog's weights {directory} are not there")
    return str(directory), None


def fingerprint(source: Source) -> str:
    """SHA-256 over the names and contents of all files of a source that is on this machine."""
    place, revision = locate(source)
    root = Path(place) if not source.hub else Path(snapshot_download(place, revision=revision, local_files_only=True))
    whole = hashlib.sha256()
    for name, digest in sorted(_digests(root)):
        whole.update(f"{name}\0{digest}\n".encode())
    return whole.hexdigest()


def _digests(root: Path) -> Iterator[tuple[str, str]]:
    for path in root.rglob("*"):
        if not path.is_file():
            continue
        name = path.relative_to(root).as_posix()
        blob = path.resolve().name
        if path.is_symlink() and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob):
            yield name, blob  # the hub's cache names large files by their hash: nothing to read
        else:
            with path.open("rb") as file:
                yield name, hashlib.file_digest(file, "sha256").hexdigest()
