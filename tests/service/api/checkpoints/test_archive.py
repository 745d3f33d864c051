"""`/checkpoints/{id}/archive`: the weights and their documentation in one file, complete or visibly incomplete."""

import csv
import hashlib
import io
import json
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.contracts.attempt_files import CheckpointManifest
from service.contracts.status import JobStatus
from service.db.artifacts import BLOCK
from service.db.models import Checkpoint, Run
from service.db.session import Database

WEIGHTS = "pytorch_lora_weights.safetensors"
FILES = {WEIGHTS: bytes(range(256)) * (BLOCK // 128), "optimizer.safetensors": b"moments", "state.json": b"{}"}
HELDOUT = {"clip_score": {"before": 0.5, "after": 0.625, "difference": 0.125, "interval95": [0.1, 0.15], "pairs": 128}}


@pytest.fixture
def run(records: Any) -> Run:
    created: Run = records.run(JobStatus.SUCCEEDED, heldout=HELDOUT)
    records.metric(created, "reward/clip_score", [0.1 * step for step in range(61)])
    records.metric(created, "heldout/clip_score", [0.5] + [0.01 * step for step in range(1, 61)])
    return created


@pytest.fixture
def checkpoint(records: Any, run: Run) -> Checkpoint:
    created: Checkpoint = records.checkpoint(run, FILES, step=run.max_steps)
    return created


def unpacked(data: bytes) -> dict[str, bytes]:
    """The members of an archive by name, without the directory."""
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        return {name.partition("/")[2]: opened.extractfile(name).read() for name in opened.getnames()}  # type: ignore[union-attr]


def test_the_archive_has_weights_and_model_card(client: TestClient, checkpoint: Checkpoint) -> None:
    response = client.get(f"/checkpoints/{checkpoint.id}/archive")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/x-tar")
    assert response.headers["content-length"] == str(len(response.content))
    assert response.headers["accept-ranges"] == "none"
    members = unpacked(response.content)
    described = {"README.md", "manifest.json", "spec.json", "heldout.json", "prompts.json", "curves.csv"}
    assert members.keys() == {WEIGHTS} | described
    assert members[WEIGHTS] == FILES[WEIGHTS]
    assert json.loads(members["spec.json"]) == checkpoint.manifest["spec"]
    assert json.loads(members["prompts.json"])["heldout"] == "shapes-heldout"
    # The manifest lists the files of the archive, so that an unpacked archive is a checkpoint.
    (file,) = CheckpointManifest.model_validate_json(members["manifest.json"]).files
    assert (file.name, file.sha256) == (WEIGHTS, hashlib.sha256(FILES[WEIGHTS]).hexdigest())


def test_training_state_is_included_on_request(client: TestClient, checkpoint: Checkpoint) -> None:
    members = unpacked(client.get(f"/checkpoints/{checkpoint.id}/archive?training=true").content)
    assert {name: members[name] for name in FILES} == FILES


def test_the_model_card_describes_the_checkpoint(client: TestClient, checkpoint: Checkpoint) -> None:
    card = unpacked(client.get(f"/checkpoints/{checkpoint.id}/archive").content)["README.md"].decode()
    for said in (
        "a LoRA of rank 16 and alpha 16 for the base model `shapes-flux`",
        "| algorithm | g2rpo |",
        "| reward | clip_score, weight 1 |",
        "| clip_score | 0.5000 | 0.6250 | +0.1250 | +0.1000 to +0.1500 | 128 |",
        "[spec.json](spec.json)",
        "pipeline.load_lora_weights",
        "whose license applies",
    ):
        assert said in card


def test_the_card_of_an_earlier_step_has_no_later_values(client: TestClient, records: Any, run: Run) -> None:
    earlier = records.checkpoint(run, FILES, step=20)
    members = unpacked(client.get(f"/checkpoints/{earlier.id}/archive").content)
    steps = [int(row["step"]) for row in csv.DictReader(io.StringIO(members["curves.csv"].decode()))]
    assert max(steps) == 20 and len(steps) == 42
    assert json.loads(members["heldout.json"]) == {"clip_score": {"before": 0.5, "after": 0.2}}
    assert "computed at the end of the run" in members["README.md"].decode()


def test_an_unchanged_archive_is_not_sent_again(client: TestClient, checkpoint: Checkpoint) -> None:
    path = f"/checkpoints/{checkpoint.id}/archive"
    first, second = client.get(path), client.get(path)
    assert first.content == second.content
    again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(f"{path}?training=true").headers["etag"] != first.headers["etag"]


def test_the_card_of_an_imported_checkpoint_states_the_import(
    client: TestClient, database: Database, checkpoint: Checkpoint
) -> None:
    with database.transaction() as session:
        row = session.get_one(Checkpoint, checkpoint.id)
        row.run_id, row.manifest = None, {**row.manifest, "spec": None, "architecture": None}
    members = unpacked(client.get(f"/checkpoints/{checkpoint.id}/archive").content)
    assert "The weights were imported" in members["README.md"].decode()
    assert members["curves.csv"].decode().split() == ["name,step,value"]


def test_a_deleted_checkpoint_has_no_archive(client: TestClient, records: Any, run: Run) -> None:
    deleted = records.checkpoint(run, FILES, step=5, deleted_at=datetime.now(UTC))
    assert client.get(f"/checkpoints/{deleted.id}/archive").status_code == 410


def test_a_file_of_another_length_is_an_error_before_the_first_byte(
    client: TestClient, database: Database, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    (tmp_path / "short").write_bytes(FILES[WEIGHTS][:-1])
    database.artifacts.put_file(tmp_path / "short", f"{checkpoint.key}/{WEIGHTS}")
    refused = client.get(f"/checkpoints/{checkpoint.id}/archive")
    assert (refused.status_code, refused.json()["code"]) == (500, "artifact_damaged")


def test_a_damaged_file_breaks_off(
    database: Database, checkpoint: Checkpoint, app: Any, tmp_path: Path, serve: Any
) -> None:
    from service.client import ApiError, Client

    (tmp_path / "other").write_bytes(FILES[WEIGHTS][:-1] + b"x")
    with serve(app) as url, Client(url, patience=0.1) as asking:
        assert asking.archive(checkpoint.id, tmp_path / "whole.tar").stat().st_size > len(FILES[WEIGHTS])
        database.artifacts.put_file(tmp_path / "other", f"{checkpoint.key}/{WEIGHTS}")
        with pytest.raises(ApiError):
            asking.archive(checkpoint.id, tmp_path / "damaged.tar")
    assert not (tmp_path / "damaged.tar").exists()
