"""Checkpoints: listing, manifests, and downloads of whole files and ranges."""

import base64
import hashlib
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from service.api.checkpoints.downloads import byte_range
from service.contracts.status import JobStatus
from service.core.settings import Settings
from service.db.artifacts import BLOCK
from service.db.session import Database
from service.http.errors import RangeNotSatisfiable

WEIGHTS = "pytorch_lora_weights.safetensors"
DATA = bytes(range(256)) * (2 * BLOCK // 256 + 1)  # more than two blocks


@pytest.fixture
def checkpoint(records: Any) -> Any:
    return records.checkpoint(records.run(JobStatus.SUCCEEDED), {WEIGHTS: DATA, "sub dir/état.json": b"{}"})


class TestShow:
    def test_a_runs_checkpoints_are_listed_newest_first(self, client: TestClient, records: Any) -> None:
        run = records.run(JobStatus.RUNNING)
        rows = [records.checkpoint(run, {WEIGHTS: b"w"}, step=step) for step in (20, 40, 60)]
        items = client.get(f"/runs/{run.id}/checkpoints").json()["items"]
        assert [item["id"] for item in items] == [str(row.id) for row in rows[::-1]]
        first = client.get(f"/runs/{run.id}/checkpoints?limit=2").json()
        rest = client.get(f"/runs/{run.id}/checkpoints?limit=2&cursor={first['next_cursor']}").json()
        assert first["items"] + rest["items"] == items and rest["next_cursor"] is None

    def test_a_checkpoint_shows_its_manifest_and_where_its_files_are(self, client: TestClient, checkpoint: Any) -> None:
        shown = client.get(f"/checkpoints/{checkpoint.id}").json()
        assert shown["manifest"] == checkpoint.manifest
        assert {file["name"] for file in shown["files"]} == {WEIGHTS, "sub dir/état.json"}
        for file in shown["files"]:
            content = client.get(file["url"]).content
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (file["sha256"], file["size"])

    def test_unknown_ids_are_not_found(self, client: TestClient) -> None:
        for path in ("/checkpoints/{}", "/checkpoints/{}/files/x", "/runs/{}/checkpoints"):
            assert client.get(path.format(uuid.uuid4())).status_code == 404


class TestDownload:
    def test_a_complete_file_has_its_hash(self, client: TestClient, checkpoint: Any) -> None:
        response = client.get(f"/checkpoints/{checkpoint.id}/files/{WEIGHTS}")
        assert (response.status_code, response.content) == (200, DATA)
        digest = hashlib.sha256(DATA)
        assert response.headers["ETag"] == f'"{digest.hexdigest()}"'
        assert response.headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
        assert response.headers["Content-Length"] == str(len(DATA))
        assert response.headers["Accept-Ranges"] == "bytes"

    @pytest.mark.parametrize(
        ("asked", "start", "end"),
        [("bytes=0-0", 0, 1), ("bytes=10-19", 10, 20), ("bytes=1048570-", 1048570, len(DATA)), ("bytes=-5", -5, None)],
    )
    def test_a_range_is_returned(
        self, client: TestClient, checkpoint: Any, asked: str, start: int, end: int | None
    ) -> None:
        response = client.get(f"/checkpoints/{checkpoint.id}/files/{WEIGHTS}", headers={"Range": asked})
        assert (response.status_code, response.content) == (206, DATA[start:end])
        first = start % len(DATA)
        last = first + len(response.content) - 1
        assert response.headers["Content-Range"] == f"bytes {first}-{last}/{len(DATA)}"

    def test_a_download_resumes_only_with_the_same_file(self, client: TestClient, checkpoint: Any) -> None:
        url = f"/checkpoints/{checkpoint.id}/files/{WEIGHTS}"
        etag = client.get(url).headers["ETag"]
        assert client.get(url, headers={"Range": "bytes=5-", "If-Range": etag}).status_code == 206
        assert client.get(url, headers={"Range": "bytes=5-", "If-Range": '"other"'}).status_code == 200
        for current in (etag, "*", f'"another", {etag}'):
            assert client.get(url, headers={"If-None-Match": current}).status_code == 304, current

    def test_a_range_outside_the_file_is_rejected_with_the_size(self, client: TestClient, checkpoint: Any) -> None:
        url = f"/checkpoints/{checkpoint.id}/files/{WEIGHTS}"
        response = client.get(url, headers={"Range": f"bytes={len(DATA)}-"})
        assert (response.status_code, response.headers["Content-Range"]) == (416, f"bytes */{len(DATA)}")

    @pytest.mark.parametrize(
        "name",
        ["other", "manifest.json", "../manifest.json", "..%2f..%2fetc%2fpasswd", "%00", "sub dir", "/etc/passwd"],
    )
    def test_only_names_of_the_manifest_are_found(self, client: TestClient, checkpoint: Any, name: str) -> None:
        response = client.get(f"/checkpoints/{checkpoint.id}/files/{name}")
        assert response.status_code == 404

    def test_a_head_request_returns_length_and_hash(self, client: TestClient, checkpoint: Any) -> None:
        url = f"/checkpoints/{checkpoint.id}/files/{WEIGHTS}"
        response = client.head(url, headers={"Range": "bytes=0-1"})
        assert (response.status_code, response.content) == (200, b"")
        whole = client.get(url).headers
        for name in ("Content-Length", "Content-Type", "ETag", "Repr-Digest", "Accept-Ranges"):
            assert response.headers[name] == whole[name]
        assert client.head(url, headers={"If-None-Match": whole["ETag"]}).status_code == 304
        assert client.head(f"/checkpoints/{checkpoint.id}/files/other").status_code == 404

    def test_a_damaged_file_breaks_off(
        self, client: TestClient, checkpoint: Any, database: Database, tmp_path: Path
    ) -> None:
        (tmp_path / "tampered").write_bytes(DATA[:-1] + b"!")
        database.artifacts.put_file(tmp_path / "tampered", f"{checkpoint.key}/{WEIGHTS}")
        received = b""
        with client.stream("GET", f"/checkpoints/{checkpoint.id}/files/{WEIGHTS}") as response:
            for block in response.iter_bytes():
                received += block
        assert len(received) < len(DATA)

    @pytest.mark.parametrize(("name", "content"), [(WEIGHTS, DATA[:-1]), ("sub dir/état.json", b"[]")])
    def test_visible_damage_is_an_error_before_the_first_byte(
        self, client: TestClient, checkpoint: Any, database: Database, tmp_path: Path, name: str, content: bytes
    ) -> None:
        (tmp_path / "tampered").write_bytes(content)
        database.artifacts.put_file(tmp_path / "tampered", f"{checkpoint.key}/{name}")
        for headers in ({}, {"Range": "bytes=0-0"}):
            response = client.get(f"/checkpoints/{checkpoint.id}/files/{name}", headers=headers)
            assert (response.status_code, response.json()["code"]) == (500, "artifact_damaged")

    def test_an_unavailable_store_is_not_reported_as_damage(
        self, client: TestClient, checkpoint: Any, settings: Settings
    ) -> None:
        (settings.data_dir / "artifacts").rename(settings.data_dir / "away")
        response = client.get(f"/checkpoints/{checkpoint.id}/files/{WEIGHTS}")
        assert (response.status_code, response.json()["code"]) == (503, "storage_unavailable")
        assert response.headers["Retry-After"] == "5"

    def test_a_missing_file_is_an_error_before_the_first_byte(
        self, client: TestClient, checkpoint: Any, database: Database
    ) -> None:
        database.artifacts.delete(checkpoint.key)
        response: httpx.Response = client.get(f"/checkpoints/{checkpoint.id}/files/{WEIGHTS}")
        assert (response.status_code, response.json()["code"]) == (500, "artifact_damaged")
        assert client.head(f"/checkpoints/{checkpoint.id}/files/{WEIGHTS}").status_code == 500


@pytest.mark.parametrize(
    "header", [None, "", "bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,3-4", "lines=0-1", "bytes=a-b"]
)
def test_an_unsupported_range_returns_the_complete_file(header: str | None) -> None:
    assert byte_range(header, 10) is None


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=-0", "bytes=99-100"])
def test_an_empty_range_is_rejected(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        byte_range(header, 10)
