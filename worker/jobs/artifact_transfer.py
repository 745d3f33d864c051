"""Transfer of files between an attempt's directory and the artifact store. Files with a wrong hash are rejected."""

import contextlib
import hashlib
import os
import shutil
import uuid
from pathlib import Path

from pydantic import ValidationError

from service.contracts.attempt_files import MANIFEST_FILE, CheckpointManifest
from service.db.artifacts import ArtifactDamaged, ArtifactStore, Stored
from service.db.models import Checkpoint, PromptSet
from service.db.session import Database

_CACHE_SIZE = 16
"""Maximum number of checkpoints in this machine's cache."""
START = "start"
"""Subdirectory of an attempt's directory for the checkpoint that the attempt starts from."""


class Rejected(ValueError):
    """A file that a process reported is missing, invalid, or differs from the report."""


class PromptSetDamaged(ArtifactDamaged):
    """The prompt set of a run is missing or damaged in the artifact store."""


def inside(directory: Path, relative: str) -> Path:
    """Return the path of a file that a process reported.

    Raises Rejected if the path is outside `directory` or does not exist.
    """
    path = (directory / relative).resolve()
    if not path.is_relative_to(directory.resolve()):
        raise Rejected(f"{relative!r} is outside the attempt's directory")
    if not path.exists():
        raise Rejected(f"{relative!r} does not exist")
    return path


def store_file(store: ArtifactStore, source: Path, key: str, sha256: str) -> Stored:
    """Store a file. Raises Rejected if its SHA-256 is not `sha256` or the key is invalid."""
    try:
        return store.put_file(source, key, sha256)
    except ValueError as error:
        raise Rejected(str(error)) from error


def store_checkpoint(store: ArtifactStore, source: Path, key: str) -> CheckpointManifest:
    """Store the files of a checkpoint after checking them against the manifest. The manifest is stored last.

    Raises Rejected if the manifest is invalid, or a file is missing or differs from the manifest.
    """
    try:
        manifest = CheckpointManifest.model_validate_json(inside(source, MANIFEST_FILE).read_bytes())
    except ValidationError as error:
        raise Rejected(f"{source.name}/{MANIFEST_FILE} is not a manifest: {error}") from error
    for file in manifest.files:
        stored = store_file(store, inside(source, file.name), f"{key}/{file.name}", file.sha256)
        if stored.size != file.size:
            raise Rejected(f"{file.name} has {stored.size} bytes, not {file.size}")
    store.put_file(source / MANIFEST_FILE, f"{key}/{MANIFEST_FILE}")
    return manifest


def fetch_checkpoint(database: Database, id: uuid.UUID, into: Path) -> Path:
    """Fetch a checkpoint from the local cache or the store into a subdirectory of `into`, and return that directory.

    The directory stays complete if the cache evicts the checkpoint. Raises ArtifactDamaged if a file in the store is
    missing or damaged.
    """
    cached, target = database.settings.data_dir.absolute() / "work" / "checkpoints" / str(id), into / str(id)
    if not (_link_tree(cached, target) and _is_intact(target)):
        _fetch(database, id, target)
        _add_to_cache(target, cached)
    with contextlib.suppress(FileNotFoundError):  # another worker has just removed it
        os.utime(cached)
        _evict_oldest(cached.parent)
    return target


def _fetch(database: Database, id: uuid.UUID, target: Path) -> None:
    with database.transaction() as session:
        row = session.get(Checkpoint, id)
        if row is None:
            raise ArtifactDamaged(f"checkpoint {id} not found")
        key, manifest = row.key, CheckpointManifest.model_validate(row.manifest)
    shutil.rmtree(target, ignore_errors=True)
    try:
        names = [file.name for file in manifest.files]
        database.artifacts.get_directory(key, [*names, MANIFEST_FILE], target)
        for file in manifest.files:
            if _hash(target / file.name) != file.sha256:
                raise ArtifactDamaged(f"{file.name} of checkpoint {id} differs from its manifest")
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def is_stored(database: Database, id: uuid.UUID) -> bool:
    """Whether the store contains all files of a checkpoint undamaged. The cache is not used."""
    with database.transaction() as session:
        row = session.get_one(Checkpoint, id)
        key, files = row.key, list(row.stored.values())
    try:
        for file in files:
            for _block in database.artifacts.stream(file):
                pass  # the end of the stream checks the hash
    except ArtifactDamaged:
        return False
    return database.artifacts.exists(f"{key}/{MANIFEST_FILE}")


def fetch_prompt_set(database: Database, id: uuid.UUID, directory: Path) -> Path:
    """Fetch the file of an uploaded prompt set into `directory` and return its path.

    Raises PromptSetDamaged if the file is missing or damaged in the store.
    """
    with database.transaction() as session:
        row = session.get(PromptSet, id)
        if row is None:
            raise PromptSetDamaged(f"prompt set {id} not found")
        name, stored = row.name, row.stored
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{id}.jsonl"
    try:
        with path.open("wb") as file:
            file.writelines(database.artifacts.stream(stored))
    except ArtifactDamaged as error:
        raise PromptSetDamaged(f"prompt set {name!r}: {error}") from error
    return path


def _add_to_cache(source: Path, cached: Path) -> None:
    """Add a checkpoint to the cache, replacing an existing entry. Does nothing if the disk is full."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    fresh = cached.with_name(f"fetching-{uuid.uuid4()}")
    if _link_tree(source, fresh):
        _discard(cached)
        with contextlib.suppress(OSError):  # another worker was faster
            fresh.rename(cached)
    shutil.rmtree(fresh, ignore_errors=True)


def _link_tree(source: Path, target: Path) -> bool:
    """Link or copy the files of `source` to `target`, and return whether this succeeded."""
    shutil.rmtree(target, ignore_errors=True)
    try:
        shutil.copytree(source, target, copy_function=_link)
    except OSError:  # for example if another worker discards the source at the same time
        return False
    return True


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _evict_oldest(cache: Path) -> None:
    """Discard all but the most recently used entries. Other workers may do this at the same time."""
    entries = []
    for path in cache.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.is_dir():
                entries.append((path.stat().st_mtime, path))
    for _, path in sorted(entries)[:-_CACHE_SIZE]:
        _discard(path)


def _is_intact(directory: Path) -> bool:
    """Whether all files in the manifest exist and match their hashes."""
    try:
        manifest = CheckpointManifest.model_validate_json((directory / MANIFEST_FILE).read_bytes())
        return all(_hash(directory / file.name) == file.sha256 for file in manifest.files)
    except (OSError, ValidationError):
        return False


def _discard(directory: Path) -> None:
    """Rename a directory before removing it, so that a partly removed directory is never used as a checkpoint."""
    hidden = directory.with_name(f"discarded-{uuid.uuid4()}")
    with contextlib.suppress(FileNotFoundError):  # another worker was faster
        directory.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
