"""Pause, resume, save, clone, change and delete runs over HTTP."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from service.contracts.events import RECOVERED
from service.contracts.status import JobStatus
from service.db import events
from service.db.models import Checkpoint, Garbage, Metric, Run
from service.db.models.run import RunEvent
from service.db.session import Database

WAITING = (JobStatus.QUEUED, JobStatus.INTERRUPTED)
HELD = (JobStatus.STARTING, JobStatus.RUNNING)
ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)
FILES = {"pytorch_lora_weights.safetensors": b"weights"}


def refused(response: Any, status: int, code: str) -> str:
    assert response.status_code == status, response.text
    problem = response.json()
    assert problem["code"] == code
    return str(problem["detail"])


def statuses(database: Database, id: uuid.UUID) -> list[str]:
    with database.transaction() as session:
        rows = session.scalars(select(RunEvent).where(RunEvent.run_id == id).order_by(RunEvent.id)).all()
    return [row.data["status"] for row in rows if row.type == "status"]


def store(database: Database, checkpoint: Checkpoint, directory: Path, data: bytes) -> None:
    """Replace the weights of a checkpoint with other bytes."""
    (directory / "weights").write_bytes(data)
    database.artifacts.put_file(directory / "weights", f"{checkpoint.key}/{next(iter(FILES))}")


class TestPause:
    @pytest.mark.parametrize("status", WAITING)
    def test_a_queued_run_pauses_immediately(self, client: TestClient, records: Any, status: JobStatus) -> None:
        run = records.run(status)
        shown = client.post(f"/runs/{run.id}/pause")
        assert (shown.status_code, shown.json()["status"]) == (202, "paused")

    @pytest.mark.parametrize("status", HELD)
    def test_a_running_run_gets_one_pause_request(
        self, client: TestClient, records: Any, database: Database, status: JobStatus
    ) -> None:
        run = records.run(status)
        answers = [client.post(f"/runs/{run.id}/pause").json()["status"] for _ in range(2)]
        assert answers == ["pausing", "pausing"]
        assert statuses(database, run.id) == ["pausing"]

    @pytest.mark.parametrize("status", (*ENDED, JobStatus.CANCELLING))
    def test_pausing_an_ending_or_ended_run_is_rejected(
        self, client: TestClient, records: Any, status: JobStatus
    ) -> None:
        run = records.run(status)
        detail = refused(client.post(f"/runs/{run.id}/pause"), 409, "wrong_state")
        assert status.value in detail

    def test_a_paused_run_can_be_cancelled(self, client: TestClient, records: Any) -> None:
        run = records.run(JobStatus.PAUSED)
        assert client.post(f"/runs/{run.id}/cancel").json()["status"] == "cancelled"


class TestResume:
    @pytest.mark.parametrize("status", (*ENDED, JobStatus.PAUSED))
    def test_a_resumed_run_is_queued_without_its_former_result(
        self, client: TestClient, records: Any, status: JobStatus
    ) -> None:
        run = records.run(status, attempt=2, losses=2, seconds_used=60.0)
        records.checkpoint(run, FILES, step=20)
        shown = client.post(f"/runs/{run.id}/resume", json={"max_steps": 100}).json()
        assert (shown["status"], shown["max_steps"], shown["ended_at"], shown["error"]) == ("queued", 100, None, None)
        assert (shown["losses"], shown["seconds_used"], shown["queue_position"]) == (0, 0.0, 1)
        assert shown["spec"]["training"]["max_steps"] == run.max_steps, "the accepted spec stays"

    def test_a_body_is_not_needed(self, client: TestClient, records: Any) -> None:
        run = records.run(JobStatus.PAUSED)
        assert client.post(f"/runs/{run.id}/resume").json()["status"] == "queued"

    @pytest.mark.parametrize("status", (*WAITING, *HELD, JobStatus.PAUSING, JobStatus.CANCELLING))
    def test_resuming_an_active_run_is_rejected(self, client: TestClient, records: Any, status: JobStatus) -> None:
        run = records.run(status)
        records.checkpoint(run, FILES)
        detail = refused(client.post(f"/runs/{run.id}/resume"), 409, "wrong_state")
        assert "pause" in detail

    def test_an_unsupported_override_is_rejected_by_name(self, client: TestClient, records: Any) -> None:
        run = records.run(JobStatus.PAUSED)
        body = {"max_steps": 50, "training": {"learning_rate": 1}}
        detail = refused(client.post(f"/runs/{run.id}/resume", json=body), 422, "invalid_request")
        assert "training" in detail and "clone" in detail

    @pytest.mark.parametrize("status", ENDED)
    def test_resuming_without_a_checkpoint_is_rejected(
        self, client: TestClient, records: Any, status: JobStatus
    ) -> None:
        run = records.run(status)
        records.checkpoint(run, FILES, deleted_at=run.created_at)
        assert "clone" in refused(client.post(f"/runs/{run.id}/resume"), 409, "no_checkpoint")

    def test_a_checkpoint_that_waits_on_a_worker_is_announced(
        self, client: TestClient, records: Any, database: Database
    ) -> None:
        error = {"code": "storage", "detail": "no route to host", "hint": "", "log_tail": ""}
        run = records.run(JobStatus.FAILED, error=error, attempt=2)
        response = client.post(f"/runs/{run.id}/resume")
        assert "stores checkpoints that wait" in refused(response, 409, "checkpoint_not_stored")
        assert int(response.headers["Retry-After"]) == database.settings.reconcile_seconds
        with database.transaction() as session:
            events.record(session, Run, run.id, 2, RECOVERED)
        refused(client.post(f"/runs/{run.id}/resume"), 409, "no_checkpoint")

    def test_a_run_with_a_damaged_checkpoint_resumes_once_the_store_is_repaired(
        self, client: TestClient, records: Any, database: Database, tmp_path: Path
    ) -> None:
        run = records.run(JobStatus.FAILED)
        checkpoint = records.checkpoint(run, FILES, damaged=True)
        store(database, checkpoint, tmp_path, b"weig")
        assert "repair" in refused(client.post(f"/runs/{run.id}/resume"), 409, "damaged_checkpoint")
        store(database, checkpoint, tmp_path, FILES[next(iter(FILES))])
        assert client.post(f"/runs/{run.id}/resume").json()["status"] == "queued"

    def test_a_run_that_stopped_early_is_cloned_instead_of_resumed(self, client: TestClient, records: Any) -> None:
        run = records.run(JobStatus.SUCCEEDED, progress={"step": 20, "phase": "checkpoint"})
        records.checkpoint(run, FILES, step=20)
        for body in ({}, {"max_steps": 100}):
            detail = refused(client.post(f"/runs/{run.id}/resume", json=body), 409, "stopped_early")
            assert f"after 20 of {run.max_steps} steps" in detail and "clone" in detail

    def test_a_completed_run_resumes_only_with_more_steps(self, client: TestClient, records: Any) -> None:
        run = records.run(JobStatus.SUCCEEDED)
        records.checkpoint(run, FILES, step=run.max_steps)
        for body in ({}, {"max_steps": run.max_steps}):
            detail = refused(client.post(f"/runs/{run.id}/resume", json=body), 409, "nothing_left")
            assert f"max_steps above {run.max_steps}" in detail

    def test_fewer_steps_than_completed_are_rejected(self, client: TestClient, records: Any) -> None:
        run = records.run(JobStatus.FAILED)
        records.checkpoint(run, FILES, step=20)
        detail = refused(client.post(f"/runs/{run.id}/resume", json={"max_steps": 19}), 422, "invalid_request")
        assert "the minimum is 20" in detail


class TestSave:
    def test_a_checkpoint_is_requested_once_until_it_is_saved(
        self, client: TestClient, records: Any, database: Database
    ) -> None:
        run = records.run(JobStatus.RUNNING)
        for _ in range(2):
            assert client.post(f"/runs/{run.id}/checkpoint").json()["checkpoint_pending"] is True
        with database.transaction() as session:
            row = session.get_one(Run, run.id)
            assert row.checkpoint_requests == 1
            row.checkpoint_answers = 1
        assert client.get(f"/runs/{run.id}").json()["checkpoint_pending"] is False
        assert client.post(f"/runs/{run.id}/checkpoint").json()["checkpoint_pending"] is True

    @pytest.mark.parametrize("ask", ["pause", "cancel"])
    def test_pausing_without_a_worker_removes_the_save_request(
        self, client: TestClient, records: Any, ask: str
    ) -> None:
        run = records.run(JobStatus.INTERRUPTED, checkpoint_requests=1)
        assert client.get(f"/runs/{run.id}").json()["checkpoint_pending"] is True
        assert client.post(f"/runs/{run.id}/{ask}").json()["checkpoint_pending"] is False

    @pytest.mark.parametrize("status", (*WAITING, *ENDED, JobStatus.PAUSED, JobStatus.PAUSING))
    def test_saving_an_inactive_run_is_rejected(self, client: TestClient, records: Any, status: JobStatus) -> None:
        run = records.run(status)
        assert status.value in refused(client.post(f"/runs/{run.id}/checkpoint"), 409, "wrong_state")


class TestClone:
    def test_a_clone_has_the_resolved_spec_with_the_overrides(self, client: TestClient, records: Any) -> None:
        parent = records.run(JobStatus.FAILED, {"training": {"learning_rate": 1e-4}, "labels": {"paper": "table-2"}})
        response = client.post(f"/runs/{parent.id}/clone", json={"training": {"seed": 43}, "name": "again"})
        clone = response.json()
        assert (response.status_code, clone["status"], clone["parent_id"]) == (202, "queued", str(parent.id))
        assert response.headers["Location"] == f"/runs/{clone['id']}"
        spec = {**parent.spec, "name": "again", "training": {**parent.spec["training"], "seed": 43}}
        assert clone["spec"] == spec
        assert clone["labels"] == {"paper": "table-2"}

    def test_overridden_prompts_are_replaced_completely(self, client: TestClient, records: Any) -> None:
        parent = records.run()
        clone = client.post(f"/runs/{parent.id}/clone", json={"prompts": {"items": ["a red circle"]}}).json()
        assert clone["spec"]["prompts"] == {"set": None, "items": ["a red circle"]}

    @pytest.mark.parametrize(
        ("overrides", "where"),
        [
            ({"training": {"max_steps": 0}}, ["body", "training", "max_steps"]),
            ({"training": 7}, ["body", "training"]),
            ({"preset": "paper"}, ["body", "preset"]),
            ({"color": "red"}, ["body", "color"]),
        ],
    )
    def test_invalid_overrides_are_named(
        self, client: TestClient, records: Any, overrides: dict[str, Any], where: list[str]
    ) -> None:
        parent = records.run()
        response = client.post(f"/runs/{parent.id}/clone", json=overrides)
        assert response.status_code == 422
        assert where in [error["loc"] for error in response.json()["errors"]]


class TestChange:
    def test_only_given_fields_change(self, client: TestClient, records: Any) -> None:
        run = records.run(JobStatus.SUCCEEDED, {"name": "old", "labels": {"a": "b"}})
        shown = client.patch(f"/runs/{run.id}", json={"name": "new", "notes": "the good one"}).json()
        assert (shown["name"], shown["notes"], shown["labels"]) == ("new", "the good one", {"a": "b"})
        assert client.patch(f"/runs/{run.id}", json={"labels": {}}).json()["labels"] == {}

    def test_a_priority_moves_a_queued_run(self, client: TestClient, records: Any) -> None:
        first, second = records.run(), records.run()
        assert client.get(f"/runs/{second.id}").json()["queue_position"] == 2
        assert client.patch(f"/runs/{second.id}", json={"priority": -1}).json()["queue_position"] == 1
        assert client.get(f"/runs/{first.id}").json()["queue_position"] == 2

    def test_other_fields_cannot_be_changed(self, client: TestClient, records: Any) -> None:
        run = records.run()
        for body in ({"status": "succeeded"}, {"seed": 1}, {"name": None}, {"priority": 1000}):
            refused(client.patch(f"/runs/{run.id}", json=body), 422, "invalid_request")


class TestDelete:
    @pytest.mark.parametrize("status", (*ENDED, JobStatus.PAUSED))
    def test_deleting_a_run_deletes_all_its_data(
        self, client: TestClient, records: Any, database: Database, status: JobStatus
    ) -> None:
        run = records.run(status)
        records.metric(run, "loss", [1.0])
        records.checkpoint(run, FILES)
        assert client.delete(f"/runs/{run.id}").status_code == 204
        refused(client.get(f"/runs/{run.id}"), 404, "not_found")
        refused(client.delete(f"/runs/{run.id}"), 404, "not_found")
        with database.transaction() as session:
            assert not session.scalars(select(Metric)).all()
            assert not session.scalars(select(Checkpoint)).all()
            assert session.scalars(select(Garbage.prefix)).all() == [f"runs/{run.id}"]

    @pytest.mark.parametrize("status", (*WAITING, *HELD, JobStatus.PAUSING, JobStatus.CANCELLING))
    def test_an_open_run_is_not_deleted(self, client: TestClient, records: Any, status: JobStatus) -> None:
        run = records.run(status)
        assert "cancel it" in refused(client.delete(f"/runs/{run.id}"), 409, "wrong_state")

    def test_a_run_with_dependent_runs_is_not_deleted(self, client: TestClient, records: Any) -> None:
        run = records.run(JobStatus.SUCCEEDED)
        start = records.checkpoint(run, FILES)
        other = records.run(JobStatus.SUCCEEDED, start_from=start.id)
        assert str(other.id) in refused(client.delete(f"/runs/{run.id}"), 409, "in_use")
        assert client.delete(f"/runs/{other.id}").status_code == 204
        assert client.delete(f"/runs/{run.id}").status_code == 204

    def test_deleting_a_run_keeps_its_clone(self, client: TestClient, records: Any) -> None:
        parent = records.run(JobStatus.SUCCEEDED)
        clone = client.post(f"/runs/{parent.id}/clone").json()
        assert client.delete(f"/runs/{parent.id}").status_code == 204
        assert client.get(f"/runs/{clone['id']}").json()["parent_id"] is None


def test_attempts_are_paged_newest_first(client: TestClient, records: Any, database: Database) -> None:
    run = records.run(JobStatus.RUNNING)
    records.attempts(run, 3)
    first = client.get(f"/runs/{run.id}/attempts", params={"limit": 2}).json()
    rest = client.get(f"/runs/{run.id}/attempts", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [one["number"] for one in (*first["items"], *rest["items"])] == [3, 2, 1]
    assert rest["next_cursor"] is None
