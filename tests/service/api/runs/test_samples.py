"""`/runs/{run_id}/samples`: sample images of a run."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.contracts.status import JobStatus
from service.db.models import Sample
from service.db.session import Database


@pytest.fixture
def run(records: Any) -> Any:
    return records.run(JobStatus.RUNNING)


def store(database: Database, directory: Path, run: Any, **columns: Any) -> Sample:
    """Store a sample image with its row."""
    file = directory / "sample.png"
    file.write_bytes(b"\x89PNG " + str(columns).encode())
    stored = database.artifacts.put_file(file, f"runs/{run.id}/samples/{uuid.uuid4()}.png")
    values: dict[str, Any] = {
        "attempt": 1,
        "step": 0,
        "kind": "heldout",
        "index": 0,
        "prompt": "a red circle",
        "rewards": {"clip_score": 0.5, "shapes_verifier": None},
    }
    row = Sample(run_id=run.id, key=stored.key, sha256=stored.sha256, size=stored.size, **(values | columns))
    with database.transaction() as session:
        session.add(row)
    return row


def test_samples_are_listed_in_order_and_filtered(
    client: TestClient, database: Database, run: Any, tmp_path: Path
) -> None:
    for step in (10, 0):
        for kind in ("worst", "heldout"):
            for index in (1, 0):
                store(database, tmp_path, run, step=step, kind=kind, index=index)
    store(database, tmp_path, run, step=10, kind="worst", index=1, attempt=2)
    items = client.get(f"/runs/{run.id}/samples").json()["items"]
    places = [(item["step"], item["kind"], item["index"]) for item in items]
    assert places == sorted(places) and len(places) == 8
    assert items[-1]["attempt"] == 2
    assert items[0]["rewards"] == {"clip_score": 0.5, "shapes_verifier": None}
    filtered = client.get(f"/runs/{run.id}/samples?kind=worst&step=0").json()["items"]
    assert [(item["step"], item["kind"], item["index"]) for item in filtered] == [(0, "worst", 0), (0, "worst", 1)]
    first = client.get(f"/runs/{run.id}/samples?limit=3").json()
    rest = client.get(f"/runs/{run.id}/samples?limit=200&cursor={first['next_cursor']}").json()
    assert first["items"] + rest["items"] == items and rest["next_cursor"] is None


def test_the_image_is_returned_and_cacheable(client: TestClient, database: Database, run: Any, tmp_path: Path) -> None:
    row = store(database, tmp_path, run)
    url = client.get(f"/runs/{run.id}/samples").json()["items"][0]["image"]
    response = client.get(url)
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    assert response.content == database.artifacts.read(row.key, row.sha256)
    assert response.headers["ETag"] == f'"{row.sha256}"'
    assert client.get(url, headers={"If-None-Match": response.headers["ETag"]}).status_code == 304


def test_a_damaged_image_is_an_error(client: TestClient, database: Database, run: Any, tmp_path: Path) -> None:
    row = store(database, tmp_path, run)
    (tmp_path / "other").write_bytes(b"other")
    database.artifacts.put_file(tmp_path / "other", row.key)
    response = client.get(f"/runs/{run.id}/samples/{row.id}/image")
    assert (response.status_code, response.json()["code"]) == (500, "artifact_damaged")
    assert row.key not in response.text


def test_a_sample_of_another_run_is_not_found(
    client: TestClient, database: Database, records: Any, run: Any, tmp_path: Path
) -> None:
    row = store(database, tmp_path, run)
    assert client.get(f"/runs/{records.run().id}/samples/{row.id}/image").status_code == 404
    assert client.get(f"/runs/{run.id}/samples/{uuid.uuid4()}/image").status_code == 404
    assert client.get(f"/runs/{uuid.uuid4()}/samples").status_code == 404


def test_an_unknown_kind_is_rejected(client: TestClient, run: Any) -> None:
    assert client.get(f"/runs/{run.id}/samples?kind=pretty").status_code == 422
