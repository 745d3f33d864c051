"""An API and a worker with separate data directories, which share only the database and an S3 bucket."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from service.app import create_app
from service.contracts.attempt_files import EVENTS_FILE, MANIFEST_FILE
from service.contracts.events import CheckpointSaved
from service.core.settings import Settings
from service.db.artifacts import BLOCK, ArtifactDamaged
from service.db.models import Checkpoint
from service.db.session import Database, connect
from worker.jobs.artifact_transfer import fetch_checkpoint
from worker.jobs.claim import claim_next
from worker.jobs.training_run import RunIngest, RunJobType

WEIGHTS = "pytorch_lora_weights.safetensors"
FILES = {WEIGHTS: bytes(range(256)) * (BLOCK // 256 + 1), "training_state.json": b"{}"}


@pytest.fixture
def shared(settings: Settings, bucket_url: str) -> Settings:
    """Settings of a service whose artifacts are in the bucket."""
    return settings.model_copy(update={"storage_url": bucket_url})


@pytest.fixture
def worker(shared: Settings, database: Database, tmp_path: Path) -> Iterator[Database]:
    """The database and artifact store of a worker on another machine."""
    connected = connect(shared.model_copy(update={"data_dir": tmp_path / "worker"}))
    yield connected
    connected.close()


@pytest.fixture
def client(shared: Settings, database: Database, tmp_path: Path) -> Iterator[TestClient]:
    """A client of an API on another machine."""
    app = create_app(shared.model_copy(update={"data_dir": tmp_path / "api"}))
    here = {"base_url": "http://127.0.0.1", "client": ("127.0.0.1", 50000)}
    with TestClient(app, **here, raise_server_exceptions=False) as connected:
        yield connected


@pytest.fixture
def saved(worker: Database, records: Any) -> Checkpoint:
    """A checkpoint that a training process wrote and its worker ingested."""
    run = records.run()
    claim = claim_next(worker, RunJobType(), "worker:1")
    assert claim is not None and claim.id == run.id
    directory = worker.settings.data_dir / "work/runs" / str(run.id) / "attempt-1"
    _write_checkpoint(directory / "checkpoints/20", run.spec)
    event = CheckpointSaved(time=datetime.now(UTC), step=20, directory="checkpoints/20").model_dump_json()
    (directory / EVENTS_FILE).write_text(event + "\n")
    RunIngest(worker, claim, directory).drain()
    with worker.transaction() as session:
        return session.scalars(select(Checkpoint)).one()


def _write_checkpoint(directory: Path, spec: dict[str, Any]) -> None:
    directory.mkdir(parents=True)
    for name, data in FILES.items():
        (directory / name).write_bytes(data)
    files = [
        {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in FILES.items()
    ]
    about = {"format": 1, "model": "shapes-flux", "architecture": "a" * 64, "kind": "lora", "step": 20}
    manifest = {**about, "lora_rank": 16, "lora_alpha": 16.0, "spec": spec, "files": files}
    (directory / MANIFEST_FILE).write_text(json.dumps(manifest))


def test_files_of_a_worker_are_downloaded_from_another_machine(
    client: TestClient, saved: Checkpoint, tmp_path: Path
) -> None:
    shown = client.get(f"/checkpoints/{saved.id}").json()
    assert {file["name"] for file in shown["files"]} == set(FILES)
    url = f"/checkpoints/{saved.id}/files/{WEIGHTS}"
    whole = client.get(url)
    assert whole.content == FILES[WEIGHTS]
    assert whole.headers["ETag"] == f'"{hashlib.sha256(whole.content).hexdigest()}"'
    part = client.get(url, headers={"Range": "bytes=-300", "If-Range": whole.headers["ETag"]})
    assert (part.status_code, part.content) == (206, FILES[WEIGHTS][-300:])
    assert client.head(url).headers["Content-Length"] == str(len(FILES[WEIGHTS]))
    checks = {check["name"]: check["ok"] for check in client.get("/readyz").json()["checks"]}
    assert checks["storage"]
    assert not (tmp_path / "api/artifacts").exists() and not (tmp_path / "worker/artifacts").exists()


def test_another_worker_fetches_the_checkpoint(worker: Database, saved: Checkpoint, tmp_path: Path) -> None:
    other = connect(worker.settings.model_copy(update={"data_dir": tmp_path / "other"}))
    directory = fetch_checkpoint(other, saved.id, tmp_path / "other/first")
    assert {name: (directory / name).read_bytes() for name in FILES} == FILES
    other.artifacts.delete(saved.key)
    again = fetch_checkpoint(other, saved.id, tmp_path / "other/second")
    assert {name: (again / name).read_bytes() for name in FILES} == FILES
    other.close()


def test_a_tampered_checkpoint_is_neither_sent_nor_used(
    client: TestClient, worker: Database, saved: Checkpoint, tmp_path: Path
) -> None:
    for name, data in FILES.items():
        (tmp_path / "tampered").write_bytes(data[:-1] + b"!")
        worker.artifacts.put_file(tmp_path / "tampered", f"{saved.key}/{name}")
    received = b""
    with client.stream("GET", f"/checkpoints/{saved.id}/files/{WEIGHTS}") as response:
        for block in response.iter_bytes():
            received += block
    assert len(received) < len(FILES[WEIGHTS])
    small = client.get(f"/checkpoints/{saved.id}/files/training_state.json", headers={"Range": "bytes=0-0"})
    assert (small.status_code, small.json()["code"]) == (500, "artifact_damaged")
    with pytest.raises(ArtifactDamaged, match=WEIGHTS):
        fetch_checkpoint(worker, saved.id, tmp_path / "fetched")
    assert not list((worker.settings.data_dir / "work").glob("checkpoints/*"))
    assert not list((tmp_path / "fetched").iterdir())
