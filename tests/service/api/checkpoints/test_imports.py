"""An uploaded LoRA becomes a checkpoint, or is rejected with a clear error."""

import hashlib
import json
import struct
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from safetensors.numpy import save
from sqlalchemy import select

from service.app import create_app
from service.db.models import Checkpoint, Garbage
from service.db.session import Database

OCTETS = {"Content-Type": "application/octet-stream"}
LAYER = "transformer.transformer_blocks.0.attn.to_q"


def lora(rank: int = 4, **tensors: Any) -> dict[str, Any]:
    defaults = {
        f"{LAYER}.lora_A.weight": np.zeros((rank, 96), np.float32),
        f"{LAYER}.lora_B.weight": np.zeros((96, rank), np.float32),
    }
    return {name: tensor for name, tensor in (defaults | tensors).items() if tensor is not None}


def send(client: TestClient, data: bytes, headers: dict[str, str] = OCTETS, **query: Any) -> Any:
    return client.post("/checkpoints", params={"model": "shapes-flux", **query}, content=data, headers=headers)


class TestAccepted:
    def test_an_imported_lora_is_a_checkpoint(self, client: TestClient) -> None:
        data = save(lora())
        response = send(client, data, name="from a friend")
        shown = response.json()
        assert response.status_code == 201, response.text
        assert response.headers["Location"] == f"/checkpoints/{shown['id']}"
        assert (shown["run_id"], shown["name"], shown["kind"]) == (None, "from a friend", "lora")
        assert (shown["manifest"]["lora_rank"], shown["manifest"]["lora_alpha"]) == (4, 4.0)
        [file] = shown["files"]
        assert file["sha256"] == hashlib.sha256(data).hexdigest()
        assert client.get(file["url"]).content == data

    @pytest.mark.parametrize(
        ("metadata", "query", "alpha"),
        [
            ({"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 8})}, {}, 8.0),
            ({"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 8})}, {"lora_alpha": 2}, 2.0),
            ({"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": None})}, {}, 4.0),
            ({}, {}, 4.0),
        ],
    )
    def test_alpha_is_that_of_the_request_or_the_file_or_the_rank(
        self, client: TestClient, metadata: dict[str, str], query: dict[str, Any], alpha: float
    ) -> None:
        shown = send(client, save(lora(), metadata), **query).json()
        assert shown["manifest"]["lora_alpha"] == alpha

    def test_a_run_starts_from_it(self, client: TestClient) -> None:
        id = send(client, save(lora())).json()["id"]
        spec = {"start_from": id, "training": {"lora_rank": 4, "lora_alpha": 4}}
        assert client.post("/runs", json=spec).status_code == 202
        assert "rank 4" in client.post("/runs", json={"start_from": id}).text

    def test_an_import_is_in_the_list_of_imports(self, client: TestClient, records: Any) -> None:
        records.checkpoint(records.run(), {"pytorch_lora_weights.safetensors": b"weights"})
        id = send(client, save(lora())).json()["id"]

        def listed(**query: Any) -> list[str]:
            return [one["id"] for one in client.get("/checkpoints", params=query).json()["items"]]

        assert listed(imported=True) == [id]
        assert len(listed()) == 2
        assert id not in listed(imported=False)

    def test_a_repeated_upload_is_stored_once(self, client: TestClient, database: Database) -> None:
        headers = {**OCTETS, "Idempotency-Key": "lora-1"}
        first, again = send(client, save(lora()), headers), send(client, save(lora()), headers)
        assert first.json()["id"] == again.json()["id"]
        assert again.headers["Idempotency-Replayed"] == "true"
        other = send(client, save(lora(rank=8)), headers)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def header(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def with_value(value: float) -> np.ndarray[Any, Any]:
    """A matrix of over a megabyte with one value at its end."""
    matrix = np.zeros((4, 2**17), np.float32)
    matrix[-1, -1] = value
    return matrix


class TestRefused:
    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"", "Invalid safetensors file"),
            (b"\x80\x04\x95 a pickle", "Invalid safetensors file"),
            (struct.pack("<Q", 2**62) + b"{}", "Invalid safetensors file"),
            (save(lora())[:-1], "Invalid safetensors file"),
            (header(json.dumps({str(number): EMPTY for number in range(20_000)}).encode()), "is 10000 tensors"),
            (struct.pack("<Q", 2**25) + b"{}", "the maximum is 16777216"),
            (save(lora(**{f"{LAYER}.lora_A.weight": with_value(np.nan)})), f"{LAYER}.lora_A.weight has NaN"),
            (save(lora(**{f"{LAYER}.lora_A.weight": with_value(-np.inf)})), "infinite"),
            (save(lora(**{f"{LAYER}.lora_B.weight": np.full((96, 4), np.nan, np.float16)})), "lora_B.weight has NaN"),
            (save({}), "has 0 tensors"),
            (save(lora(**{"text_encoder.layer.lora_A.weight": np.zeros((4, 8), np.float32)})), "text_encoder.layer"),
            (save(lora(**{f"{LAYER}.lora_B.weight": None})), "each needs lora_A"),
            (save(lora(**{f"{LAYER}.lora_B.weight": np.zeros((96, 5), np.float32)})), "ranks [4, 5]"),
            (save(lora(**{f"{LAYER}.lora_B.weight": np.zeros((96, 4), np.int64)})), "supported types: BF16"),
            (
                save({f"transformer.norm.lora_{half}.weight": np.zeros((4, 4), np.float32) for half in "AB"}),
                "'shapes-flux' supports a LoRA on layers to_q",
            ),
        ],
    )
    def test_a_file_without_a_lora_for_the_model_is_rejected(
        self, client: TestClient, database: Database, data: bytes, says: str
    ) -> None:
        response = send(client, data)
        assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
        assert says in response.json()["detail"]
        with database.transaction() as session:
            assert not session.scalars(select(Checkpoint)).all()

    def test_another_kind_of_body(self, client: TestClient) -> None:
        response = send(client, b"{}", {"Content-Type": "application/json"})
        assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")

    def test_an_unknown_model(self, client: TestClient) -> None:
        assert "Unknown model 'flux-9'" in send(client, save(lora()), model="flux-9").json()["detail"]

    def test_a_too_large_body_is_rejected(self, database: Database) -> None:
        app: FastAPI = create_app(database.settings.model_copy(update={"max_upload_bytes": 1000}))
        with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as client:
            response = send(client, save(lora()))
        assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


class TestDelete:
    @pytest.fixture
    def checkpoint(self, records: Any) -> Any:
        return records.checkpoint(records.run("succeeded"), {"pytorch_lora_weights.safetensors": b"weights"})

    def test_deleting_removes_files_and_keeps_the_row(
        self, client: TestClient, checkpoint: Any, database: Database
    ) -> None:
        for _ in range(2):
            assert client.delete(f"/checkpoints/{checkpoint.id}").status_code == 204
        shown = client.get(f"/checkpoints/{checkpoint.id}").json()
        assert shown["deleted_at"] is not None
        gone = client.get(shown["files"][0]["url"])
        assert (gone.status_code, gone.json()["code"]) == (410, "deleted")
        assert client.get(f"/runs/{checkpoint.run_id}/checkpoints").json()["items"] == []
        with database.transaction() as session:
            assert session.scalars(select(Garbage.prefix)).all() == [checkpoint.key]

    def test_a_deleted_checkpoint_cannot_be_used(self, client: TestClient, checkpoint: Any) -> None:
        client.delete(f"/checkpoints/{checkpoint.id}")
        for path, body in (
            ("/runs", {"start_from": str(checkpoint.id)}),
            ("/generate", {"checkpoints": [str(checkpoint.id)], "prompts": ["a red circle"]}),
        ):
            response = client.post(path, json=body)
            assert response.status_code == 422
            assert "was deleted at" in response.json()["detail"]

    def test_a_truncated_checkpoint_cannot_be_used(
        self, client: TestClient, checkpoint: Any, database: Database, tmp_path: Path
    ) -> None:
        (tmp_path / "short").write_bytes(b"weigh")
        database.artifacts.put_file(tmp_path / "short", f"{checkpoint.key}/pytorch_lora_weights.safetensors")
        for path, body in (
            ("/runs", {"start_from": str(checkpoint.id)}),
            ("/generate", {"checkpoints": [str(checkpoint.id)], "prompts": ["a red circle"]}),
            ("/evaluations", {"model": "shapes-flux", "checkpoint": str(checkpoint.id)}),
        ):
            response = client.post(path, json=body)
            assert response.status_code == 422, response.text
            assert "is damaged" in response.json()["detail"] and "repair" in response.json()["detail"]

    def test_a_checkpoint_in_use_by_a_run_is_not_deleted(
        self, client: TestClient, checkpoint: Any, records: Any
    ) -> None:
        other = records.run("queued", start_from=checkpoint.id)
        response = client.delete(f"/checkpoints/{checkpoint.id}")
        assert (response.status_code, response.json()["code"]) == (409, "in_use")
        assert str(other.id) in response.json()["detail"]

    def test_a_checkpoint_in_use_by_a_generation_is_not_deleted(
        self, client: TestClient, checkpoint: Any, records: Any
    ) -> None:
        spec = {"checkpoints": ["base", str(checkpoint.id)], "prompts": ["a red circle"], "num_images": 1}
        records.generation(spec)
        assert client.delete(f"/checkpoints/{checkpoint.id}").json()["code"] == "in_use"

    def test_the_checkpoint_of_a_paused_run_is_not_deleted(self, client: TestClient, records: Any) -> None:
        run = records.run("paused")
        old = records.checkpoint(run, {"a": b"1"}, step=1)
        newest = records.checkpoint(run, {"a": b"2"}, step=2)
        assert client.delete(f"/checkpoints/{newest.id}").json()["code"] == "in_use"
        assert client.delete(f"/checkpoints/{old.id}").status_code == 204

    def test_an_unknown_one(self, client: TestClient) -> None:
        assert client.delete(f"/checkpoints/{uuid.uuid4()}").status_code == 404
