"""Limits: open jobs and requests per minute of a key, and the size of one request."""

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from socket import create_server
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.app import create_app
from service.auth.errors import RateLimited
from service.auth.rate_limit import RateLimiter
from service.contracts.status import JobStatus
from service.core.settings import Settings
from service.db.models import Run
from service.db.session import Database


def shown(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


class TestOpenJobs:
    def test_runs_and_generations_count_together(self, away: TestClient, keys: Any) -> None:
        headers = shown(keys.make("write", max_open_jobs=2).secret)
        assert away.post("/runs", json={}, headers=headers).status_code == 202
        assert away.post("/generate", json={"prompts": ["x"]}, headers=headers).status_code == 202
        for path, body in (("/runs", {}), ("/generate", {"prompts": ["x"]})):
            refused = away.post(path, json=body, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_open_jobs")
            assert "has 2 open jobs; the limit is 2" in refused.json()["detail"]
            assert refused.headers["Retry-After"]

    def test_jobs_of_other_keys_and_ended_jobs_do_not_count(self, away: TestClient, keys: Any, records: Any) -> None:
        created = keys.make("write", max_open_jobs=1)
        for status in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED):
            records.run(status, created_by=created.row.id)
        records.run(JobStatus.RUNNING, created_by=keys.make("write").row.id)
        records.run(JobStatus.RUNNING)
        assert away.post("/runs", json={}, headers=shown(created.secret)).status_code == 202
        assert away.post("/runs", json={}, headers=shown(created.secret)).status_code == 429

    def test_a_paused_run_does_not_count(self, away: TestClient, keys: Any, database: Database) -> None:
        headers = shown(keys.make("write", max_open_jobs=1).secret)
        run = away.post("/runs", json={}, headers=headers).json()["id"]
        with database.transaction() as session:
            session.get_one(Run, uuid.UUID(run)).move_to(JobStatus.PAUSED)
        assert away.post("/runs", json={}, headers=headers).status_code == 202

    def test_a_resumed_run_counts_for_the_key_that_created_it(self, away: TestClient, keys: Any) -> None:
        headers = shown(keys.make("write", max_open_jobs=1).secret)
        run = away.post("/runs", json={}, headers=headers).json()["id"]
        assert away.post(f"/runs/{run}/pause", headers=headers).json()["status"] == "paused"
        other = away.post("/runs", json={}, headers=headers).json()["id"]
        for asking in (headers, shown(keys.make("admin").secret)):
            refused = away.post(f"/runs/{run}/resume", headers=asking)
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_open_jobs")
        away.post(f"/runs/{other}/cancel", headers=headers)
        assert away.post(f"/runs/{run}/resume", headers=headers).status_code == 202

    def test_concurrent_requests_do_not_exceed_the_limit(self, away: TestClient, keys: Any) -> None:
        headers = shown(keys.make("write", max_open_jobs=3).secret)

        def ask(number: int) -> int:
            path, body = (("/runs", {}), ("/generate", {"prompts": ["x"]}))[number % 2]
            return away.post(path, json=body, headers=headers).status_code

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(16)))
        assert (answers.count(202), answers.count(429)) == (3, 13)

    def test_the_setting_is_the_default(
        self, settings: Settings, remote: Callable[[FastAPI], TestClient], keys: Any
    ) -> None:
        tight = remote(create_app(settings.model_copy(update={"max_open_jobs": 1})))
        headers, wide = shown(keys.make("write").secret), shown(keys.make("write", max_open_jobs=2).secret)
        assert [tight.post("/runs", json={}, headers=headers).status_code for _ in range(2)] == [202, 429]
        assert [tight.post("/runs", json={}, headers=wide).status_code for _ in range(3)] == [202, 202, 429]

    def test_a_repeated_request_counts_once(self, away: TestClient, keys: Any) -> None:
        headers = {**shown(keys.make("write", max_open_jobs=1).secret), "Idempotency-Key": "once"}
        assert [away.post("/runs", json={}, headers=headers).status_code for _ in range(3)] == [202] * 3


@dataclass
class Limiter:
    """The limiter of one API process, on a separate event loop; threads may share it."""

    limiter: RateLimiter
    loop: BlockingPortal

    def take(self, key: uuid.UUID, per_minute: int) -> dict[str, str]:
        return self.loop.call(self.limiter.take, key, per_minute)


@contextmanager
def limiter_of(broker_url: str) -> Iterator[Limiter]:
    with start_blocking_portal() as loop:
        created = RateLimiter(broker_url)
        yield Limiter(created, loop)
        loop.call(created.close)


@pytest.fixture
def limiter(broker_url: str) -> Iterator[Limiter]:
    with limiter_of(broker_url) as created:
        yield created


class TestRate:
    def test_a_key_is_limited_and_gets_retry_after(self, away: TestClient, keys: Any) -> None:
        headers = shown(keys.make("read", requests_per_minute=3).secret)
        answers = [away.get("/catalog", headers=headers) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
        assert {answer.headers["RateLimit-Limit"] for answer in answers} == {"3"}
        assert answers[-1].json()["code"] == "rate_limited"
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 20

    def test_all_api_processes_count_together(
        self, settings: Settings, remote: Callable[[FastAPI], TestClient], keys: Any
    ) -> None:
        headers = shown(keys.make("read", requests_per_minute=3).secret)
        processes = [remote(create_app(settings)) for _ in range(2)]
        answers = [processes[number % 2].get("/catalog", headers=headers).status_code for number in range(4)]
        assert answers == [200, 200, 200, 429]

    def test_the_setting_is_the_default(
        self, settings: Settings, remote: Callable[[FastAPI], TestClient], keys: Any
    ) -> None:
        tight = remote(create_app(settings.model_copy(update={"requests_per_minute": 1})))
        headers = shown(keys.make("read").secret)
        assert [tight.get("/catalog", headers=headers).status_code for _ in range(2)] == [200, 429]

    def test_without_keys_there_is_no_limit(self, settings: Settings, database: Database) -> None:
        tight = create_app(settings.model_copy(update={"requests_per_minute": 1}))
        with TestClient(tight, base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as client:
            answers = [client.get("/catalog") for _ in range(3)]
        assert {answer.status_code for answer in answers} == {200}
        assert "RateLimit-Limit" not in answers[0].headers

    def test_keys_are_counted_separately(self, limiter: Limiter) -> None:
        for _ in range(3):
            assert limiter.take(uuid.uuid4(), 1)["RateLimit-Remaining"] == "0"

    @pytest.mark.parametrize("limit", [1, 7, 60, 997])
    def test_a_burst_gets_the_limit_and_the_refill(self, limiter: Limiter, limit: int) -> None:
        key, began, taken = uuid.uuid4(), time.monotonic(), 0
        with pytest.raises(RateLimited):
            while True:
                limiter.take(key, limit)
                taken += 1
        assert limit <= taken <= limit + 1 + (time.monotonic() - began) * limit / 60

    def test_concurrent_requests_do_not_pass_the_limit(self, limiter: Limiter) -> None:
        key = uuid.uuid4()

        def take(_: int) -> bool:
            try:
                return bool(limiter.take(key, 5))
            except RateLimited:
                return False

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(take, range(40))) == 5

    def test_the_bucket_refills(self, limiter: Limiter, eventually: Callable[[Callable[[], object]], None]) -> None:
        key = uuid.uuid4()

        def passes() -> bool:
            try:
                return bool(limiter.take(key, 600))
            except RateLimited:
                return False

        while passes():
            pass
        eventually(passes)


class TestBrokerAway:
    def test_all_requests_pass(
        self, settings: Settings, remote: Callable[[FastAPI], TestClient], keys: Any, database: Database
    ) -> None:
        lost = remote(create_app(settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})))
        headers = shown(keys.make("read", requests_per_minute=1).secret)
        answers = [lost.get("/catalog", headers=headers) for _ in range(3)]
        assert {answer.status_code for answer in answers} == {200}
        assert "RateLimit-Limit" not in answers[0].headers

    def test_a_silent_broker_is_contacted_once(self) -> None:
        with create_server(("127.0.0.1", 0)) as silent:
            with limiter_of(f"redis://127.0.0.1:{silent.getsockname()[1]}/0") as limiter:
                assert [limiter.take(uuid.uuid4(), 1) for _ in range(50)] == [{}] * 50
            silent.setblocking(False)
            silent.accept()[0].close()
            with pytest.raises(BlockingIOError):
                silent.accept()

    def test_it_counts_again_when_the_broker_is_back(
        self, limiter: Limiter, monkeypatch: pytest.MonkeyPatch, broker_url: str
    ) -> None:
        monkeypatch.setattr("service.auth.rate_limit._RETRY_SECONDS", 0.0)
        away = Limiter(RateLimiter("redis://127.0.0.1:1/0"), limiter.loop)
        assert away.take(uuid.uuid4(), 1) == {}
        away.limiter._script = limiter.limiter._script
        assert away.take(uuid.uuid4(), 1)["RateLimit-Limit"] == "1"

    @pytest.mark.parametrize("url", ["sentinel://127.0.0.1:1", "amqp://127.0.0.1//", "redis+socket:///nowhere/x.sock"])
    def test_another_kind_of_broker_means_no_limit(self, url: str) -> None:
        with limiter_of(url) as limiter:
            assert limiter.take(uuid.uuid4(), 1) == {}


class TestBudgets:
    @pytest.fixture
    def strict(self, settings: Settings, database: Database) -> Iterator[TestClient]:
        app = create_app(settings.model_copy(update={"max_run_nfe": 100_000, "max_prompts": 2}))
        with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as client:
            yield client

    @pytest.mark.parametrize("path", ["/runs", "/plans"])
    @pytest.mark.parametrize(
        ("spec", "loc", "kind"),
        [
            ({"training": {"max_steps": 100_000}}, ["body", "training", "max_steps"], "too_many_nfe"),
            ({"prompts": {"items": ["a", "b", "c"]}}, ["body", "prompts", "items"], "too_many_prompts"),
        ],
    )
    def test_a_run_over_the_budget_is_rejected_by_field(
        self, strict: TestClient, path: str, spec: dict[str, Any], loc: list[str], kind: str
    ) -> None:
        (error,) = strict.post(path, json={"training": {"max_steps": 2}} | spec).json()["errors"]
        assert (error["loc"], error["type"]) == (loc, kind)
        assert "exceeds the maximum of" in error["msg"]
        assert strict.post(path, json={"training": {"max_steps": 2}}).status_code < 300

    def test_a_generation_of_too_many_prompts_is_rejected(self, strict: TestClient) -> None:
        (error,) = strict.post("/generate", json={"prompts": ["a", "b", "c"]}).json()["errors"]
        assert (error["loc"], error["type"]) == (["body", "prompts"], "too_many_prompts")
