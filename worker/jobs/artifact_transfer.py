"""Between an attempt's directory and the artifact store: nothing is stored, or used, that is not what its hash says."""

import contextlib
import hashlib
import os
import shutil
import uuid
from pathlib import Path

from pydantic import ValidationError

from service.contracts.jobs import MANIFEST_FILE, CheckpointManifest
from service.db.artifacts import ArtifactDamaged, ArtifactStore, Stored
from service.db.models import Checkpoint, PromptSet
from service.db.session import Database

_KEPT = 16
"""Fetched checkpoints kept on this machine, newest use first."""
START = "start"
"""Directory below an attempt's for the checkpoint that it starts from."""


class Rejected(ValueError):
    """A child's file is not what the child said of it."""


class PromptSetDamaged(ArtifactDamaged):
    """The store has lost or altered the prompts of a run."""


def inside(directory: Path, relative: str) -> Path:
    """The path of a file that the child named. Raises Rejected when it leads out of the attempt's directory."""
    path = (directory / relative).resolve()
    if not path.is_relative_to(directory.resolve()):
        raise Rejected(f"{relative!r} leads out of the attempt's directory")
    return path


def store_file(store: ArtifactStore, source: Path, key: str, sha256: str) -> Stored:
    """Put a file whose hash must be `sha256`. Raises Rejected for another hash, and for a name no store can keep."""
    try:
        return store.put_file(source, key, sha256)
    except ValueError as error:
        raise Rejected(str(error)) from error


def store_checkpoint(store: ArtifactStore, source: Path, key: str) -> CheckpointManifest:
    """Put a checkpoint's files, each checked against the manifest, and the manifest last."""
    manifest = read_manifest(source)
    for file in manifest.files:
        stored = store_file(store, inside(source, file.name), f"{key}/{file.name}", file.sha256)
        if stored.size != file.size:
            raise Rejected(f"{file.name} has {stored.size} bytes, not {file.size}")
    store.put_file(source / MANIFEST_FILE, f"{key}/{MANIFEST_FILE}")
    return manifest


def read_manifest(directory: Path) -> CheckpointManifest:
    """The manifest of a checkpoint directory."""
    try:
        return CheckpointManifest.model_validate_json((directory / MANIFEST_FILE).read_bytes())
    except ValidationError as error:
        raise Rejected(f"{directory.name}/{MANIFEST_FILE} is not a manifest: {error}") from error


def fetch_checkpoint(database: Database, id: uuid.UUID, into: Path) -> Path:
    """The checkpoint's files in a directory of `into`, fetched from the store unless this machine keeps them whole.

    They stay there for as long as the caller wants, whatever becomes of those that are kept. Raises ArtifactDamaged
    when the store has lost or altered a file.
    """
    kept, place = database.settings.data_dir.absolute() / "work" / "checkpoints" / str(id), into / str(id)
    if not (_linked(kept, place) and _whole(place)):
        _fetch(database, id, place)
        _keep(place, kept)
    with contextlib.suppress(FileNotFoundError):  # somebody has just removed it
        os.utime(kept)
        _forget_oldest(kept.parent)
    return place


def _fetch(database: Database, id: uuid.UUID, place: Path) -> None:
    with database.transaction() as session:
        row = session.get(Checkpoint, id)
        if row is None:
            raise ArtifactDamaged(f"there is no checkpoint {id}")
        key, manifest = row.key, CheckpointManifest.model_validate(row.manifest)
    shutil.rmtree(place, ignore_errors=True)
    try:
        names = [file.name for file in manifest.files]
        database.artifacts.get_directory(key, [*names, MANIFEST_FILE], place)
        for file in manifest.files:
            if _hash(place / file.name) != file.sha256:
                raise ArtifactDamaged(f"{file.name} of checkpoint {id} is not what its manifest says")
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def is_stored(database: Database, id: uuid.UUID) -> bool:
    """Whether the store, whatever this machine has, holds the checkpoint's files as its manifest says."""
    with database.transaction() as session:
        row = session.get_one(Checkpoint, id)
        key, files = row.key, list(row.stored.values())
    try:
        for file in files:
            for _block in database.artifacts.stream(file):
                pass  # the last one comes only where the hash is right
    except ArtifactDamaged:
        return False
    return database.artifacts.exists(f"{key}/{MANIFEST_FILE}")


def fetch_prompt_set(database: Database, id: uuid.UUID, directory: Path) -> Path:
    """The file of an uploaded prompt set, in `directory`. Raises PromptSetDamaged when the store has it not whole."""
    with database.transaction() as session:
        row = session.get(PromptSet, id)
        if row is None:
            raise PromptSetDamaged(f"there is no prompt set {id}")
        name, stored = row.name, row.stored
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{id}.jsonl"
    try:
        with file.open("wb") as writing:
            writing.writelines(database.artifacts.stream(stored))
    except ArtifactDamaged as error:
        raise PromptSetDamaged(f"prompt set {name!r}: {error}") from error
    return file


def _keep(place: Path, kept: Path) -> None:
    """Keep the files for the next who wants them, instead of what is there. Without room, they are fetched again."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    fresh = kept.with_name(f"fetching-{uuid.uuid4()}")
    if _linked(place, fresh):
        _discard(kept)
        with contextlib.suppress(OSError):  # another worker was quicker
            fresh.rename(kept)
    shutil.rmtree(fresh, ignore_errors=True)


def _linked(source: Path, target: Path) -> bool:
    """Whether the files of `source` now are in `target` too, as links where the file system has them."""
    shutil.rmtree(target, ignore_errors=True)
    try:
        shutil.copytree(source, target, copy_function=_link)
    except OSError:  # also of a directory that another worker discards meanwhile
        return False
    return True


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _forget_oldest(cache: Path) -> None:
    """Discard all but those used last; other workers may be doing the same."""
    used = []
    for path in cache.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.is_dir():
                used.append((path.stat().st_mtime, path))
    for _, path in sorted(used)[:-_KEPT]:
        _discard(path)


def _whole(place: Path) -> bool:
    """Whether every file that the manifest names is there and what it says."""
    try:
        manifest = CheckpointManifest.model_validate_json((place / MANIFEST_FILE).read_bytes())
        return all(_hash(place / file.name) == file.sha256 for file in manifest.files)
    except (OSError, ValidationError):
        return False


def _discard(place: Path) -> None:
    """Remove a directory, out of sight first: half of it must not look like a checkpoint."""
    hidden = place.with_name(f"discarded-{uuid.uuid4()}")
    with contextlib.suppress(FileNotFoundError):  # another worker was quicker
        place.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
