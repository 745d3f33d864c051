"""Fetched checkpoints: a job's files remain intact when the cache changes."""

import hashlib
import json
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.contracts.attempt_files import MANIFEST_FILE
from service.contracts.generations import GenerationSpec
from service.contracts.status import JobStatus
from service.db.models import Checkpoint, Generation
from service.db.session import Database
from worker.jobs import artifact_transfer
from worker.jobs.artifact_transfer import fetch_checkpoint
from worker.jobs.claim import claim_next
from worker.jobs.generation import GenerationJobType
from worker.jobs.job_runner import run_job

WEIGHTS = "weights.safetensors"
Save = Callable[[str], uuid.UUID]


@pytest.fixture
def save(database: Database, tmp_path: Path) -> Save:
    """Stores a checkpoint whose weights are the text."""

    def save(weights: str) -> uuid.UUID:
        source = tmp_path / "source"
        source.mkdir(exist_ok=True)
        (source / WEIGHTS).write_text(weights)
        file = {"name": WEIGHTS, "sha256": hashlib.sha256(weights.encode()).hexdigest(), "size": len(weights)}
        about = {"format": 1, "model": "shapes-flux", "architecture": None, "kind": "lora", "step": 0, "spec": {}}
        (source / MANIFEST_FILE).write_text(json.dumps({**about, "files": [file]}))
        manifest = artifact_transfer.store_checkpoint(database.artifacts, source, key := f"checkpoints/{uuid.uuid4()}")
        columns = {"attempt": 0, "step": 0, "kind": "lora", "model": "shapes-flux", "size": len(weights)}
        with database.transaction() as session:
            session.add(row := Checkpoint(**columns, key=key, manifest=manifest.model_dump(mode="json")))
            session.flush()
            return row.id

    return save


def kept(database: Database) -> set[str]:
    return {path.name for path in (database.settings.data_dir / "work" / "checkpoints").iterdir()}


@pytest.fixture
def two_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_transfer, "_CACHE_SIZE", 2)


@pytest.mark.usefixtures("two_kept")
def test_fetched_checkpoint_outlives_its_cache_entry(database: Database, save: Save, tmp_path: Path) -> None:
    mine, *others = [save(name) for name in ("mine", "second", "third", "fourth")]
    place = fetch_checkpoint(database, mine, tmp_path / "job")
    for other in others:
        fetch_checkpoint(database, other, tmp_path / "others")

    assert (place / WEIGHTS).read_text() == "mine" and (place / MANIFEST_FILE).exists()
    assert kept(database) == {str(others[1]), str(others[2])}


def test_damaged_cache_entry_is_fetched_again(database: Database, save: Save, tmp_path: Path) -> None:
    id = save("weights")
    fetch_checkpoint(database, id, tmp_path / "first")
    (database.settings.data_dir / "work" / "checkpoints" / str(id) / WEIGHTS).write_text("damaged")

    for job in ("first", "second"):
        assert (fetch_checkpoint(database, id, tmp_path / job) / WEIGHTS).read_text() == "weights"


def test_files_are_copied_on_a_disk_without_links(
    database: Database, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", refuse)
    id = save("weights")
    fetch_checkpoint(database, id, tmp_path / "first")
    database.artifacts.delete("checkpoints")

    assert (fetch_checkpoint(database, id, tmp_path / "second") / WEIGHTS).read_text() == "weights"


@pytest.mark.usefixtures("two_kept")
def test_concurrent_evictions_do_not_fail(database: Database, save: Save, tmp_path: Path) -> None:
    ids = [save(f"weights {number}") for number in range(6)]

    def fetch(worker: int) -> None:
        for turn in range(20):
            number = (worker + turn) % len(ids)
            place = fetch_checkpoint(database, ids[number], tmp_path / str(worker))
            assert (place / WEIGHTS).read_text() == f"weights {number}"

    with ThreadPoolExecutor(4) as workers:
        for done in [workers.submit(fetch, worker) for worker in range(4)]:
            done.result()


def test_generation_leaves_only_the_cache_on_this_machine(database: Database, save: Save) -> None:
    id = save("no weights at all")
    spec = GenerationSpec(prompts=("a small red circle on white",), checkpoints=(id,)).model_dump(mode="json")
    with database.transaction() as session:
        session.add(row := Generation(requested={}, spec=spec, spec_version=1))
    claim = claim_next(database, GenerationJobType(), "worker:1")
    assert claim is not None

    run_job(database, claim, threading.Event())

    with database.transaction() as session:
        assert session.get_one(Generation, row.id).status is JobStatus.FAILED
    assert kept(database) == {str(id)}
    assert not list((database.settings.data_dir / "work" / "generations").iterdir())
