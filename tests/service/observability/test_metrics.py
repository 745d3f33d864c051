"""`/metrics`: the metrics for Prometheus."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from sqlalchemy import event, func, text

from service.app import create_app
from service.contracts.status import JobStatus
from service.core.settings import Settings
from service.db.models import Attempt, Worker
from service.db.session import Database
from service.observability.database_metrics import MEASURES
from tests.service.records import Records

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def connected(app: FastAPI) -> TestClient:
    return TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 50000), raise_server_exceptions=False)


def samples(answer: httpx.Response) -> Samples:
    """Values by name and labels."""
    assert answer.status_code == 200, answer.text
    families = parse(answer.text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


class TestExposition:
    def test_the_media_type_is_prometheus_text(self, client: TestClient) -> None:
        answer = client.get("/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        assert answer.headers["Content-Type"].endswith("charset=utf-8")
        assert samples(answer)

    def test_openmetrics_is_returned_if_accepted(self, client: TestClient) -> None:
        accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
        answer = client.get("/metrics", headers={"Accept": accept})
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert {"g2rpo_jobs", "g2rpo_worker_steps"} <= {family.name for family in parse_openmetrics(answer.text)}

    def test_every_name_has_its_unit_and_every_metric_is_documented(self, client: TestClient) -> None:
        page = (Path(__file__).parents[3] / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
        families = [family for family in parse(client.get("/metrics").text) if family.name.startswith("g2rpo_")]
        assert len(families) > 15
        for family in families:
            name = f"{family.name}_total" if family.type == "counter" else family.name
            assert f"`{name}`" in page, name
            assert family.documentation
            for kind in ("age", "duration", "lag"):
                assert kind not in family.name.split("_") or family.name.endswith(("_seconds", "_bytes")), name

    def test_every_documented_metric_exists(self, client: TestClient) -> None:
        page = (Path(__file__).parents[3] / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
        section = page
        families = parse(client.get("/metrics").text)
        names = {f"{one.name}_total" if one.type == "counter" else one.name for one in families}
        assert set(re.findall(r"g2rpo_\w+", section)) - names == {"g2rpo_http_request_duration_seconds_count"}
        assert yaml.safe_load(section.rpartition("```yaml")[2].partition("```")[0])["groups"][0]["rules"]

    def test_applications_in_one_process_count_separately(self, database: Database) -> None:
        with connected(create_app(database.settings)) as first, connected(create_app(database.settings)) as second:
            first.get("/catalog")
            name, labels = "g2rpo_http_request_duration_seconds_count", {"method": "GET", "route": "/catalog"}
            assert value(samples(first.get("/metrics")), name, status="200", **labels) == 1
            assert value(samples(second.get("/metrics")), name, status="200", **labels) is None


class TestRequests:
    def counts(self, client: TestClient) -> dict[tuple[str, str, str], float]:
        found = samples(client.get("/metrics"))
        name = "g2rpo_http_request_duration_seconds_count"
        labels = [(dict(key[1]), number) for key, number in found.items() if key[0] == name]
        return {(one["method"], one["route"], one["status"]): number for one, number in labels}

    def test_requests_are_counted_by_route_template(self, client: TestClient) -> None:
        for number in range(3):
            client.get(f"/runs/00000000-0000-0000-0000-00000000000{number}")
        client.get("/runs/not-an-id")
        client.put("/runs/x")
        counts = self.counts(client)
        assert counts["GET", "/runs/{run_id}", "404"] == 3
        assert counts["GET", "/runs/{run_id}", "422"] == 1
        assert not any("000" in route or "not-an-id" in route for _, route, _ in counts)

    def test_unknown_routes_share_one_label(self, client: TestClient) -> None:
        for path in ("/a", "/b/c", "/wp-login.php"):
            client.get(path)
        client.request("BREW", "/coffee")
        counts = self.counts(client)
        assert counts["GET", "other", "404"] == 3
        assert counts["other", "other", "404"] == 1

    def test_failures_are_counted(self, app: FastAPI) -> None:
        @app.get("/fails")
        def fails() -> None:
            raise RuntimeError

        with connected(app) as client:
            client.get("/fails")
            assert self.counts(client)["GET", "/fails", "500"] == 1

    def test_the_current_request_is_in_flight(self, client: TestClient) -> None:
        client.get("/healthz")
        assert value(samples(client.get("/metrics")), "g2rpo_http_requests_in_flight") == 1


class TestState:
    def test_jobs_are_counted_by_kind_and_status(self, client: TestClient, records: Records) -> None:
        for status in (JobStatus.QUEUED, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.SUCCEEDED):
            records.run(status)
        records.generation({}, JobStatus.FAILED)
        found = samples(client.get("/metrics"))
        assert value(found, "g2rpo_jobs", kind="run", status="queued") == 2
        assert value(found, "g2rpo_jobs", kind="run", status="running") == 1
        assert value(found, "g2rpo_jobs", kind="run", status="cancelled") == 0
        assert value(found, "g2rpo_jobs", kind="generation", status="failed") == 1
        assert sum(number for (name, _), number in found.items() if name == "g2rpo_jobs") == 5

    def test_the_queue_has_a_depth_and_an_age(self, client: TestClient, records: Records) -> None:
        records.run(queued_at=func.now() - timedelta(seconds=100))
        records.run(JobStatus.INTERRUPTED)
        records.run(JobStatus.RUNNING, queued_at=func.now() - timedelta(days=1))
        found = samples(client.get("/metrics"))
        assert value(found, "g2rpo_queue_depth", kind="run") == 2
        age = value(found, "g2rpo_queue_oldest_age_seconds", kind="run")
        assert age is not None and 100 <= age < 1000
        assert value(found, "g2rpo_queue_depth", kind="generation") == 0
        assert value(found, "g2rpo_queue_oldest_age_seconds", kind="generation") == 0

    def test_expired_leases_and_lost_attempts_are_counted(self, client: TestClient, records: Records) -> None:
        run = records.run(JobStatus.RUNNING, lease_owner="gone:1", lease_expires_at=func.now() - timedelta(seconds=1))
        records.run(JobStatus.RUNNING, lease_owner="here:1", lease_expires_at=func.now() + timedelta(seconds=100))
        with records.database.transaction() as session:
            session.add(Attempt(run_id=run.id, number=1, worker="gone:1", max_steps=1, lost=True))
            session.add(Attempt(run_id=run.id, number=2, worker="here:1", max_steps=1))
        found = samples(client.get("/metrics"))
        assert value(found, "g2rpo_stale_leases", kind="run") == 1
        assert value(found, "g2rpo_lost_attempts") == 1

    def test_stored_checkpoints_have_count_and_size(self, client: TestClient, records: Records) -> None:
        run = records.run()
        stored, deleted = records.checkpoint(run, {"a": b"x" * 100}), records.checkpoint(run, {"a": b"x"}, step=40)
        with records.database.transaction() as session:
            session.merge(deleted).deleted_at = func.now()
        found = samples(client.get("/metrics"))
        assert value(found, "g2rpo_checkpoints") == 1
        assert value(found, "g2rpo_checkpoint_bytes") == stored.size

    def test_reading_metrics_changes_nothing(self, client: TestClient, records: Records) -> None:
        records.run()
        first, second = samples(client.get("/metrics")), samples(client.get("/metrics"))
        for (name, labels), number in first.items():
            if name in ("g2rpo_jobs", "g2rpo_queue_depth", "g2rpo_checkpoints"):
                assert second[name, labels] == number


class TestWorkers:
    @pytest.fixture
    def worker(self, database: Database) -> None:
        stats = {measure.name: 5 for measure in MEASURES if not measure.label}
        stats |= {"gpu_memory_used_bytes.0": 10, "gpu_memory_used_bytes.1": 20, "jobs.failed": 2, "not_known": 1}
        stats |= {"jobs": 4, "steps.odd": 1, "images": "many"}
        with database.transaction() as session:
            session.add(Worker(name="here:1", queue="train", device="cpu", stats=stats))
            silent = func.now() - timedelta(seconds=500)
            session.add(Worker(name="gone:1", queue="train", device="cpu", stats={"steps": 9}, heartbeat_at=silent))

    def test_live_workers_are_counted_and_heartbeat_ages_reported(self, client: TestClient, worker: None) -> None:
        found = samples(client.get("/metrics"))
        assert value(found, "g2rpo_workers", queue="train") == 1
        assert value(found, "g2rpo_workers", queue="generate") == 0
        here = value(found, "g2rpo_worker_heartbeat_age_seconds", worker="here:1", queue="train")
        gone = value(found, "g2rpo_worker_heartbeat_age_seconds", worker="gone:1", queue="train")
        assert here is not None and gone is not None and here < 60 < 500 <= gone

    def test_measurements_of_live_workers_are_reported(self, client: TestClient, worker: None) -> None:
        found = samples(client.get("/metrics"))
        who: Any = {"worker": "here:1", "queue": "train"}
        assert value(found, "g2rpo_worker_steps_total", **who) == 5
        assert value(found, "g2rpo_worker_ingestion_lag_seconds", **who) == 5
        assert value(found, "g2rpo_worker_gpu_memory_used_bytes", gpu="1", **who) == 20
        assert value(found, "g2rpo_worker_jobs_total", outcome="failed", **who) == 2
        assert value(found, "g2rpo_worker_steps_total", worker="gone:1", queue="train") is None

    def test_unknown_measurements_are_omitted(self, client: TestClient, worker: None) -> None:
        text_ = client.get("/metrics").text
        for odd in ("not_known", "odd", "many"):
            assert odd not in text_
        assert value(samples(client.get("/metrics")), "g2rpo_worker_jobs_total", worker="here:1", queue="train") is None


class TestDatabase:
    def test_without_the_database_process_metrics_are_reported(self, settings: Settings) -> None:
        away = settings.model_copy(update={"database_url": "postgresql+psycopg://u@127.0.0.1:1/d"})
        with connected(create_app(away)) as client:
            found = samples(client.get("/metrics"))
        assert value(found, "g2rpo_database_up") == 0
        assert value(found, "g2rpo_http_requests_in_flight") == 1
        assert value(found, "g2rpo_jobs", kind="run", status="queued") is None

    def test_with_an_old_schema_process_metrics_are_reported(self, settings: Settings, empty_database_url: str) -> None:
        with connected(create_app(settings.model_copy(update={"database_url": empty_database_url}))) as client:
            assert value(samples(client.get("/metrics")), "g2rpo_database_up") == 0

    def test_a_locked_table_times_out(self, client: TestClient, database: Database) -> None:
        with database.engine.connect() as other, other.begin():
            other.execute(text("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE"))
            assert value(samples(client.get("/metrics")), "g2rpo_database_up") == 0
        assert value(samples(client.get("/metrics")), "g2rpo_database_up") == 1

    def test_state_is_read_in_one_transaction_without_the_metrics_table(self, app: FastAPI) -> None:
        statements: list[str] = []
        engine = app.state.database.engine
        event.listen(engine, "begin", lambda _: statements.append("BEGIN"))
        event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
        with connected(app) as client:
            client.get("/metrics")
        first = next(n for n, sql in enumerate(statements) if sql.startswith("SET TRANSACTION READ ONLY"))
        reading = statements[first:]
        assert "BEGIN" not in reading
        assert len(reading) < 15
        for table in ("metrics", "reward_groups", "run_events", "log_chunks"):
            assert not any(f"FROM {table}" in statement for statement in reading)
