"""The location of the catalog's weights on this machine."""

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
    """The arguments of `from_pretrained`: a directory or hub id, and a revision. ValueError for a missing directory."""
    if source.hub:
        return source.hub, source.revision
    directory = _BUNDLED / source.bundled if source.bundled else source.directory
    if directory is None or not directory.is_dir():
        raise ValueError(f"weights directory {directory} of the catalog not found")
    return str(directory), None


def access_token(source: Source) -> str | None:
    """The hub's access token that the source names; None leaves it to the hub's client."""
    return os.environ.get(source.token_env) if source.token_env else None


def fetch(source: Source, pipeline: Any) -> Path:
    """The directory of a diffusers pipeline, downloaded if necessary; ValueError explains how to fix a failure."""
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
    """SHA-256 over the names and contents of all files of a source on this machine, or of its directories `parts`."""
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
    except IncompleteSnapshotError as error:  # a pipeline or a reward uses only a part of its repository
        return Path(error.snapshot_path)


def _digests(root: Path, directory: str) -> Iterator[tuple[str, str]]:
    for path in (root / directory).rglob("*"):
        if not path.is_file():
            continue
        name = path.relative_to(root).as_posix()
        blob = path.resolve().name
        if path.is_symlink() and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob):
            yield name, blob  # the hub's cache names large files by their hash
        else:
            with path.open("rb") as file:
                yield name, hashlib.file_digest(file, "sha256").hexdigest()
