"""`/runs`: creating, listing, showing and canceling runs."""

import uuid
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from service.app import create_app
from service.contracts.runs import RunSpec
from service.contracts.status import JobStatus
from service.core.settings import Settings
from service.db.models import Run, Worker
from service.db.models.run import RunEvent
from service.db.session import Database


def refused(response: Any) -> list[dict[str, Any]]:
    """The fields named in a response with status 422."""
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    errors: list[dict[str, Any]] = response.json()["errors"]
    return errors


class TestCreate:
    def test_a_run_is_accepted_with_resolved_spec_and_plan(self, client: TestClient, database: Database) -> None:
        body = {"preset": "shapes-no-mgai", "name": "mine", "labels": {"a": "b"}, "training": {"max_steps": 5}}
        response = client.post("/runs", json=body)
        assert response.status_code == 202
        run = response.json()
        assert response.headers["Location"] == f"/runs/{run['id']}"
        assert uuid.UUID(run["id"]).version == 7
        assert (run["status"], run["queue_position"], run["attempt"]) == ("queued", 1, 0)
        assert run["spec"] == RunSpec.model_validate(body).model_dump(mode="json")
        assert run["spec"]["algorithm"]["granularities"] == [1]
        plan = client.post("/plans", json=body).json()
        assert run["plan"] == {key: value for key, value in plan.items() if key != "spec"}
        with database.sessions() as session:
            row = session.get_one(Run, uuid.UUID(run["id"]))
            assert row.requested == body
            events = session.scalars(select(RunEvent).where(RunEvent.run_id == row.id)).all()
            assert [(event.id, event.data) for event in events] == [(1, {"status": "queued"})]

    def test_more_processes_than_devices_of_any_worker_are_rejected(
        self, client: TestClient, database: Database
    ) -> None:
        body = {"resources": {"processes_per_node": 4}}
        waiting = client.post("/runs", json=body).json()
        assert "no worker reports its number of devices" in waiting["plan"]["warnings"][-1]

        with database.transaction() as session:
            session.add(Worker(name="a", queue="train", device="cpu", stats={"devices": 2.0}))
            session.add(Worker(name="b", queue="train", device="cpu"))
            session.add(Worker(name="c", queue="generate", device="cpu", stats={"devices": 8.0}))

        [error] = refused(client.post("/runs", json=body))
        assert error["loc"] == ["body", "resources", "processes_per_node"]
        assert "4 processes" in error["msg"] and "must be between 1 and 2" in error["msg"]
        accepted = client.post("/runs", json={"resources": {"processes_per_node": 2}})
        assert accepted.status_code == 202
        assert not any("processes_per_node" in warning for warning in accepted.json()["plan"]["warnings"])

    def test_an_unavailable_broker_does_not_prevent_creation(self, settings: Settings, database: Database) -> None:
        deaf = settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
        with TestClient(create_app(deaf), base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as client:
            run = client.post("/runs", json={}).json()
        with database.sessions() as session:
            assert session.get_one(Run, uuid.UUID(run["id"])).status is JobStatus.QUEUED

    @pytest.mark.parametrize(
        ("body", "loc", "says"),
        [
            ({"model": "sdxl"}, ["body", "model"], "the catalog has shapes-flux"),
            ({"rewards": [{"name": "beauty"}]}, ["body", "rewards", 0, "name"], "the catalog has clip_score"),
            ({"heldout": {"rewards": ["beauty"]}}, ["body", "heldout", "rewards", 0], "clip_score"),
            ({"prompts": {"set": "poems"}}, ["body", "prompts", "set"], "shapes-train"),
            ({"heldout": {"prompts": "poems"}}, ["body", "heldout", "prompts"], "shapes-heldout"),
            ({"preset": "best"}, ["body", "preset"], "allowed: shapes"),
            ({"modle": "shapes-flux"}, ["body", "modle"], "Did you mean 'model'?"),
            ({"training": {"lr": 1}}, ["body", "training", "lr"], "Did you mean 'learning_rate'?"),
            ({"algorithm": {"group_size": 1}}, ["body", "algorithm", "group_size"], "greater than or equal to 2"),
            ({"algorithm": {"sde_steps": [0, 7]}}, ["body", "algorithm"], "allowed: 0 to 6"),
            ({"algorithm": {"granularities": [0]}}, ["body", "algorithm", "granularities", 0], "or equal to 1"),
            ({"algorithm": {"eta": 0}}, ["body", "algorithm", "eta"], "greater than 0"),
            ({"prompts": {"items": []}}, ["body", "prompts", "items"], "at least 1"),
            ({"prompts": {"items": ["a"] * 10_001}}, ["body", "prompts", "items"], "at most 10000"),
            ({"prompts": {"items": ["a" * 2001]}}, ["body", "prompts", "items", 0], "at most 2000"),
            ({"prompts": {"items": ["a\x00b"]}}, ["body", "prompts", "items", 0], "character 2 is U+0000"),
            ({"labels": {"a": "\x00"}}, ["body", "labels", "a"], "character 1 is U+0000"),
            ({"sampling": {"width": 64}}, ["body", "sampling", "width"], "multiples of 16 up to 32 pixels"),
            ({"training": {"seed": 2**63}}, ["body", "training", "seed"], "less than or equal to"),
            ({"training": {"max_steps": 10**30}}, ["body", "training", "max_steps"], "less than or equal to"),
            ({"start_from": str(uuid.UUID(int=7))}, ["body", "start_from"], "not found"),
            ({"start_from": "latest"}, ["body", "start_from"], "valid UUID"),
            ({"resources": {"nodes": 2}}, ["body", "resources", "nodes"], "1"),
            ([], ["body"], "must be an object"),
            (None, ["body"], "Missing JSON body"),
        ],
    )
    def test_an_invalid_spec_is_rejected_by_field(
        self, client: TestClient, database: Database, body: Any, loc: list[str | int], says: str
    ) -> None:
        errors = refused(client.post("/runs", json=body))
        assert loc in [error["loc"] for error in errors], errors
        assert any(says in error["msg"] for error in errors if error["loc"] == loc), errors
        with database.sessions() as session:
            assert session.scalar(select(func.count()).select_from(Run)) == 0

    def test_all_unknown_names_are_reported_together(self, client: TestClient) -> None:
        body = {"model": "sdxl", "rewards": [{"name": "clip_score"}, {"name": "beauty"}], "prompts": {"set": "poems"}}
        assert [error["loc"] for error in refused(client.post("/runs", json=body))] == [
            ["body", "model"],
            ["body", "rewards", 1, "name"],
            ["body", "prompts", "set"],
        ]

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"not json",
            b"{'single': 1}",
            b'{"training": {"learning_rate": NaN}}',
            b'{"training": {"learning_rate": Infinity}}',
            b'{"training": {"learning_rate": -Infinity}}',
            b'{"training": {"learning_rate": 1e999}}',
            b'{"training": {"seed": ' + b"9" * 5000 + b"}}",
            b"[" * 100_000,
            b"\xff\xfe",
            b'{"name": "\\ud800"}',
            b'{"name": "\\u0000"}',
        ],
    )
    def test_invalid_json_is_rejected(self, client: TestClient, content: bytes) -> None:
        errors = refused(client.post("/runs", content=content, headers={"Content-Type": "application/json"}))
        assert errors[0]["loc"][0] == "body"

    def test_a_json_error_has_its_position(self, client: TestClient) -> None:
        response = client.post("/runs", content=b'{"name": }', headers={"Content-Type": "application/json"})
        assert refused(response)[0]["loc"] == ["body", 9]

    def test_another_media_type_is_rejected(self, client: TestClient) -> None:
        for headers in ({"Content-Type": "text/plain"}, {}):
            assert refused(client.post("/runs", content=b"{}", headers=headers))[0]["loc"] == ["header", "content-type"]


class TestStartFrom:
    @pytest.fixture
    def checkpoint(self, records: Any) -> Any:
        return records.checkpoint(records.run(JobStatus.SUCCEEDED), {"pytorch_lora_weights.safetensors": b"weights"})

    def test_a_compatible_checkpoint_is_accepted(self, client: TestClient, checkpoint: Any) -> None:
        run = client.post("/runs", json={"start_from": str(checkpoint.id)}).json()
        assert run["start_from"] == str(checkpoint.id)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"training": {"adapter": "full"}}, "has kind 'lora'; training.adapter must be 'lora', not 'full'"),
            ({"training": {"lora_rank": 8}}, "has LoRA rank 16; training.lora_rank must be 16, not 8"),
            (
                {"model": "flux-1-dev", "sampling": {"width": 512, "height": 512}},
                "belongs to model 'shapes-flux' (architecture aaaaaaaaaaaa), not to 'flux-1-dev'",
            ),
        ],
    )
    def test_an_incompatible_checkpoint_is_rejected_at_creation(
        self, client: TestClient, checkpoint: Any, change: dict[str, Any], says: str
    ) -> None:
        errors = refused(client.post("/runs", json={"start_from": str(checkpoint.id), **change}))
        assert errors[0]["loc"] == ["body", "start_from"]
        assert says in errors[0]["msg"]


class TestShow:
    def test_an_unknown_id_is_not_found(self, client: TestClient) -> None:
        response = client.get(f"/runs/{uuid.uuid4()}")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")

    def test_a_malformed_id_is_rejected(self, client: TestClient) -> None:
        assert refused(client.get("/runs/latest"))[0]["loc"] == ["path", "run_id"]

    def test_a_running_run_shows_its_progress(self, client: TestClient, records: Any) -> None:
        progress = {
            "type": "progress",
            "time": "2026-01-01T00:00:00Z",
            "step": 3,
            "max_steps": 60,
            "phase": "rollout",
            "eta_seconds": 12.5,
        }
        run = records.run(JobStatus.RUNNING, lease_owner="worker-1", attempt=1, progress=progress)
        records.metric(run, "reward/clip_score", [0.1, 0.2, None])
        records.metric(run, "loss", [1.0])
        shown = client.get(f"/runs/{run.id}").json()
        assert (shown["worker"], shown["eta_seconds"], shown["queue_position"]) == ("worker-1", 12.5, None)
        assert (shown["progress"]["step"], shown["progress"]["phase"]) == (3, "rollout")
        assert shown["metrics"] == {
            "loss": {"step": 0, "value": 1.0},
            "reward/clip_score": {"step": 2, "value": None},
        }
        assert shown["resources"] == {"nodes": 1, "processes_per_node": 1, "offload_rewards": False}

    def test_an_ended_run_shows_its_result(self, client: TestClient, records: Any) -> None:
        summary = {"before": 0.1, "after": 0.3, "difference": 0.2, "interval95": [0.1, 0.3], "pairs": 512}
        done = records.run(JobStatus.SUCCEEDED, heldout={"clip_score": summary})
        assert client.get(f"/runs/{done.id}").json()["heldout"] == {"clip_score": summary}
        failure = {"code": "out_of_memory", "detail": "no room", "hint": "smaller batches", "log_tail": "boom"}
        failed = records.run(JobStatus.FAILED, error=failure)
        assert client.get(f"/runs/{failed.id}").json()["error"] == failure

    def test_a_stored_spec_is_shown_unchanged_even_if_it_is_no_longer_valid(
        self, client: TestClient, records: Any
    ) -> None:
        old = {"model": "gone", "algorithm": {"name": "older", "advantage": {"std_floor": 0}}, "forgotten": 1}
        run = records.run(JobStatus.SUCCEEDED)
        with records.database.transaction() as session:
            session.get_one(Run, run.id).spec = old
        assert client.get(f"/runs/{run.id}").json()["spec"] == old

    def test_the_queue_position_is_by_priority_then_age(self, client: TestClient, records: Any) -> None:
        first, second = records.run(), records.run()
        urgent = records.run(priority=-1)
        again = records.run(JobStatus.INTERRUPTED)
        records.run(JobStatus.RUNNING)
        places = [client.get(f"/runs/{run.id}").json()["queue_position"] for run in (urgent, first, second, again)]
        assert places == [1, 2, 3, 4]


class TestList:
    def test_filters_are_combined(self, client: TestClient, records: Any) -> None:
        wanted = records.run(JobStatus.SUCCEEDED, spec={"labels": {"paper": "table-2", "who": "a:b"}})
        records.run(JobStatus.SUCCEEDED, spec={"labels": {"paper": "table-1", "who": "a:b"}})
        records.run(spec={"labels": {"paper": "table-2", "who": "a:b"}})
        query = (
            "status=succeeded&status=failed&label=paper:table-2&label=who:a:b&model=shapes-flux&algorithm=g2rpo"
            "&created_after=2020-01-01T00:00:00Z&created_before=2999-01-01T00:00:00Z"
        )
        assert [item["id"] for item in client.get(f"/runs?{query}").json()["items"]] == [str(wanted.id)]
        for nothing in ("model=other", "algorithm=x", "created_before=2020-01-01T00:00:00Z", "label=paper:x"):
            assert client.get(f"/runs?{nothing}").json() == {"items": [], "next_cursor": None}

    @pytest.mark.parametrize(
        "query",
        [
            "status=asleep",
            "limit=0",
            "limit=201",
            "limit=many",
            "cursor=zzz",
            "cursor=",
            "label=nocolon",
            "label=%00:a",
            "model=%00",
            "created_after=yesterday",
            "created_after=2020-01-01T00:00:00",
            "sort=name",
        ],
    )
    def test_an_invalid_query_is_rejected(self, client: TestClient, query: str) -> None:
        assert refused(client.get(f"/runs?{query}"))[0]["loc"][:2] == ["query", query.split("=")[0]]

    @settings(max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(limit=st.integers(1, 8), total=st.integers(0, 12), during=st.integers(0, 3))
    def test_pages_contain_every_run_once_despite_new_runs(
        self, client: TestClient, records: Any, limit: int, total: int, during: int
    ) -> None:
        label = uuid.uuid4().hex
        expected = [str(records.run(spec={"labels": {"set": label}}).id) for _ in range(total)][::-1]
        seen: list[str] = []
        cursor: str | None = None
        while True:
            query = f"/runs?label=set:{label}&limit={limit}" + (f"&cursor={cursor}" if cursor else "")
            page = client.get(query).json()
            assert len(page["items"]) <= limit
            seen += [item["id"] for item in page["items"]]
            cursor = page["next_cursor"]
            for _ in range(during):
                records.run(spec={"labels": {"set": label}})
            if cursor is None:
                break
        assert seen == expected


class TestCancel:
    def test_a_queued_run_is_cancelled_immediately_and_repeating_has_no_effect(
        self, client: TestClient, records: Any
    ) -> None:
        run = records.run()
        first = client.post(f"/runs/{run.id}/cancel")
        assert (first.status_code, first.json()["status"]) == (202, "cancelled")
        assert first.json()["ended_at"] and first.json()["cancel_requested_at"]
        second = client.post(f"/runs/{run.id}/cancel")
        assert (second.status_code, second.json()) == (202, first.json())

    def test_a_running_run_gets_a_cancel_request(self, client: TestClient, records: Any, database: Database) -> None:
        run = records.run(JobStatus.RUNNING, lease_owner="worker-1", attempt=1)
        first = client.post(f"/runs/{run.id}/cancel")
        assert (first.status_code, first.json()["status"], first.json()["worker"]) == (202, "cancelling", "worker-1")
        assert client.post(f"/runs/{run.id}/cancel").json() == first.json()
        with database.sessions() as session:
            events = session.scalars(select(RunEvent).where(RunEvent.run_id == run.id)).all()
            assert [(event.attempt, event.data) for event in events] == [(1, {"status": "cancelling"})]

    @pytest.mark.parametrize("status", [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED])
    def test_cancelling_an_ended_run_returns_it_unchanged(
        self, client: TestClient, records: Any, status: JobStatus
    ) -> None:
        run = records.run(status)
        response = client.post(f"/runs/{run.id}/cancel")
        assert (response.status_code, response.json()) == (202, client.get(f"/runs/{run.id}").json())
        assert response.json()["status"] == status

    def test_an_unknown_run_is_not_found(self, client: TestClient) -> None:
        assert client.post(f"/runs/{uuid.uuid4()}/cancel").status_code == 404
