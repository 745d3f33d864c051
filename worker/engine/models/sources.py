"""Locating, downloading and fingerprinting the weights of catalog entries."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import IncompleteSnapshotError

from service.contracts.catalog import Source

_BUNDLED = Path(__file__).parents[2] / "shapes" / "weights"


def locate(source: Source) -> tuple[str, str | None]:
    """Return the arguments for `from_pretrained`: a directory or hub id, and a revision or None.

    Raises ValueError if the directory does not exist.
    """
    if source.hub:
        return source.hub, source.revision
    directory = _BUNDLED / source.bundled if source.bundled else source.directory
    if directory is None or not directory.is_dir():
        raise ValueError(f"the weights directory {directory} in the catalog does not exist")
    return str(directory), None


def access_token(source: Source) -> str | None:
    """Return the hub access token from the source's environment variable.

    Returns None if the source names no variable or it is not set; the hub client then uses its own default.
    """
    return os.environ.get(source.token_env) if source.token_env else None


def fetch(source: Source, pipeline: Any) -> Path:
    """Return the directory of a diffusers pipeline, after downloading it if necessary.

    Raises ValueError, with instructions, if the directory does not exist or the download fails.
    """
    place, revision = locate(source)
    if not source.hub:
        return Path(place)
    try:
        return Path(pipeline.download(place, revision=revision, token=access_token(source), use_safetensors=True))
    except Exception as error:  # the hub's client has many unrelated error classes
        named = source.token_env or "HF_TOKEN"
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        state = "is set" if os.environ.get(named) else "is not set"
        raise ValueError(
            f"cannot download {place} from the hub: {reason} Accept its license on the hub and set the worker's "
            f"environment variable {named}, which {state}, to an access token; or download it and set `directory` "
            "in the catalog"
        ) from error


def fingerprint(source: Source, parts: Sequence[str] = ()) -> str:
    """Return a SHA-256 hash of the names and contents of a source's local files.

    If `parts` is given, only the files in these subdirectories are hashed.
    """
    root, whole = _root(source), hashlib.sha256()
    found = (one for directory in parts or [""] for one in _digests(root, directory))
    for name, digest in sorted(found):
        whole.update(f"{name}\0{digest}\n".encode())
    return whole.hexdigest()


def _root(source: Source) -> Path:
    place, revision = locate(source)
    if not source.hub:
        return Path(place)
    try:
        return Path(snapshot_download(place, revision=revision, local_files_only=True))
    except IncompleteSnapshotError as error:  # only the files that a pipeline or reward needs were downloaded
        return Path(error.snapshot_path)


def _digests(root: Path, directory: str) -> Iterator[tuple[str, str]]:
    for path in (root / directory).rglob("*"):
        if not path.is_file():
            continue
        name = path.relative_to(root).as_posix()
        blob = path.resolve().name
        if path.is_symlink() and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob):
            yield name, blob  # the hub cache uses content hashes as file names
        else:
            with path.open("rb") as file:
                yield name, hashlib.file_digest(file, "sha256").hexdigest()
