"""`/keys`: creating, showing and revoking keys."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from service.api.keys import service
from service.auth import api_keys
from service.auth.errors import KeyExpired, KeyMissing, KeyRevoked, KeyUnknown
from service.client import ApiError, Client
from service.contracts.status import JobStatus
from service.db import events
from service.db.models import ApiKey, Generation, Run
from service.db.session import Database


def shown(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
def operator(keys: Any) -> dict[str, str]:
    """The header of a key with the scope admin."""
    return keys.presented("valid")


class TestMaking:
    def test_the_first_key_makes_authentication_required(self, client: TestClient) -> None:
        assert client.get("/runs").status_code == 200
        created = client.post("/keys", json={"name": "operator", "scopes": ["admin"]})
        assert created.status_code == 201
        assert client.get("/runs").status_code == 401
        assert client.get("/runs", headers=shown(created.json()["key"])).status_code == 200

    @pytest.mark.parametrize("scope", ["read", "write"])
    def test_the_first_key_must_be_an_administrator(self, client: TestClient, scope: str) -> None:
        refused = client.post("/keys", json={"name": "reader", "scopes": [scope]})
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["loc"] == ["body", "scopes"]
        assert client.get("/runs").status_code == 200

    def test_a_key_is_shown_once_and_only_its_hash_is_stored(
        self, away: TestClient, operator: dict[str, str], database: Database
    ) -> None:
        created = away.post("/keys", json={"name": "the lab", "scopes": ["write"]}, headers=operator)
        body = created.json()
        assert created.headers["Cache-Control"] == "no-store"
        assert body["key"].startswith(body["prefix"]) and len(body["prefix"]) == 12
        shown_again = away.get(created.headers["Location"], headers=operator).json()
        assert shown_again == {name: value for name, value in body.items() if name != "key"}
        with database.sessions() as session:
            stored = session.scalar(text("SELECT string_agg(k::text, ' ') FROM api_keys k"))
        assert body["key"][12:] not in stored
        assert away.get("/runs", headers=shown(body["key"])).status_code == 200

    def test_a_repeated_request_shows_the_key_without_its_secret(
        self, away: TestClient, operator: dict[str, str], database: Database
    ) -> None:
        body, headers = {"name": "the lab", "scopes": ["write"]}, {**operator, "Idempotency-Key": "once"}
        first, again = (away.post("/keys", json=body, headers=headers) for _ in range(2))
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.json() == first.json() | {"key": None}
        with database.sessions() as session:
            stored_keys = session.scalar(text("SELECT string_agg(k::text, ' ') FROM idempotency_keys k"))
        assert first.json()["key"][12:] not in stored_keys

    def test_two_keys_may_use_the_same_idempotency_key(self, away: TestClient, keys: Any) -> None:
        names = [{**keys.presented("valid", "write"), "Idempotency-Key": "once"} for _ in range(2)]
        created = {away.post("/runs", json={}, headers=headers).json()["id"] for headers in names}
        assert len(created) == 2

    @pytest.mark.parametrize(
        "wrong",
        [
            {"name": "environment"},
            {"name": "  "},
            {"name": "a\nb"},
            {"name": "x" * 101},
            {"scopes": []},
            {"scopes": ["owner"]},
            {"expires_at": "2020-01-01T00:00:00Z"},
            {"expires_at": "2099-01-01T00:00:00"},
            {"max_open_jobs": 0},
            {"requests_per_minute": -1},
            {"requests_per_minute": 10**7},
            {"key": "g2k_mine"},
        ],
    )
    def test_invalid_fields_are_named(self, away: TestClient, operator: dict[str, str], wrong: dict[str, Any]) -> None:
        answer = away.post("/keys", json={"name": "the lab", "scopes": ["read"]} | wrong, headers=operator)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["loc"][:2] == ["body", next(iter(wrong))]


class TestShowing:
    def test_lists_are_paged_newest_first(self, away: TestClient, keys: Any, operator: dict[str, str]) -> None:
        created = [str(keys.make("read").row.id) for _ in range(5)]
        listed: list[str] = []
        cursor = None
        while True:
            query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            page = away.get("/keys", params=query, headers=operator).json()
            assert all("key" not in item and "hash" not in item for item in page["items"])
            listed += [item["id"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert listed[:5] == created[::-1] and len(listed) == 6

    def test_states_are_shown(self, away: TestClient, keys: Any, operator: dict[str, str]) -> None:
        states = {
            "revoked": keys.make("read", revoked_at=datetime.now(UTC)),
            "expired": keys.make("read", expires_at=datetime.now(UTC) - timedelta(seconds=1)),
            "active": keys.make("read", expires_at=datetime.now(UTC) + timedelta(days=1)),
        }
        for state, created in states.items():
            assert away.get(f"/keys/{created.row.id}", headers=operator).json()["state"] == state

    def test_an_unknown_key_is_not_found(self, away: TestClient, operator: dict[str, str]) -> None:
        assert away.get(f"/keys/{uuid.UUID(int=1)}", headers=operator).status_code == 404
        assert away.delete(f"/keys/{uuid.UUID(int=1)}", headers=operator).status_code == 404

    def test_the_last_use_is_recorded_once_a_minute(
        self, away: TestClient, keys: Any, operator: dict[str, str], database: Database
    ) -> None:
        created = keys.make("read")

        def last_used() -> datetime | None:
            with database.sessions() as session:
                return session.get_one(ApiKey, created.row.id).last_used_at

        assert last_used() is None
        away.get("/runs", headers=shown(created.secret))
        first = last_used()
        away.get("/runs", headers=shown(created.secret))
        assert first is not None and last_used() == first
        with database.transaction() as session:
            session.get_one(ApiKey, created.row.id).last_used_at = first - timedelta(seconds=61)
        away.get("/runs", headers=shown(created.secret))
        assert last_used() >= first

    def test_recording_the_last_use_does_not_wait_for_locks(
        self, away: TestClient, keys: Any, database: Database
    ) -> None:
        created = keys.make("read")
        with database.transaction() as session:
            session.execute(select(ApiKey.id).where(ApiKey.id == created.row.id).with_for_update())
            assert away.get("/runs", headers=shown(created.secret)).status_code == 200


class TestRevoking:
    def test_a_revoked_key_is_rejected_from_the_next_request(
        self, away: TestClient, keys: Any, operator: dict[str, str]
    ) -> None:
        created = keys.make("write")
        assert away.get("/runs", headers=shown(created.secret)).status_code == 200
        first, again = (away.delete(f"/keys/{created.row.id}", headers=operator) for _ in range(2))
        assert (first.status_code, first.json()["state"]) == (200, "revoked")
        assert again.json() == first.json()
        assert away.get("/runs", headers=shown(created.secret)).json()["code"] == "key_revoked"

    def test_the_last_administrator_is_not_revoked(self, away: TestClient, keys: Any) -> None:
        only = keys.make("admin")
        keys.make("admin", revoked_at=datetime.now(UTC))
        keys.make("admin", expires_at=datetime.now(UTC))
        keys.make("write")
        refused = away.delete(f"/keys/{only.row.id}", headers=shown(only.secret))
        assert (refused.status_code, refused.json()["code"]) == (409, "last_admin_key")
        other = keys.make("admin")
        assert away.delete(f"/keys/{only.row.id}", headers=shown(only.secret)).status_code == 200
        assert away.delete(f"/keys/{other.row.id}", headers=shown(other.secret)).status_code == 409

    def test_two_administrators_cannot_revoke_each_other(self, away: TestClient, keys: Any) -> None:
        pair = [keys.make("admin") for _ in range(2)]

        def revoke(me: int) -> int:
            return away.delete(f"/keys/{pair[1 - me].row.id}", headers=shown(pair[me].secret)).status_code

        with ThreadPoolExecutor(2) as pool:
            answers = sorted(pool.map(revoke, range(2)))
        assert answers in ([200, 401], [200, 409])


def test_jobs_have_the_key_of_their_creator(away: TestClient, keys: Any, database: Database) -> None:
    created = keys.make("write")
    run = away.post("/runs", json={}, headers=shown(created.secret)).json()["id"]
    generation = away.post("/generate", json={"prompts": ["x"]}, headers=shown(created.secret)).json()["id"]
    with database.sessions() as session:
        assert session.get_one(Run, uuid.UUID(run)).created_by == created.row.id
        assert session.get_one(Generation, uuid.UUID(generation)).created_by == created.row.id


class TestCheck:
    """The check that open streams repeat."""

    @pytest.fixture
    def check(self, database: Database) -> Callable[[uuid.UUID | None], None]:
        def checked(key: uuid.UUID | None) -> None:
            with database.sessions() as session:
                api_keys.check(session, key)

        return checked

    def test_a_valid_key_stays_valid(self, keys: Any, check: Any) -> None:
        check(keys.make("read").row.id)

    def test_an_invalidated_key_ends_the_stream(self, keys: Any, check: Any) -> None:
        now = datetime.now(UTC)
        for columns, refusal in (({"revoked_at": now}, KeyRevoked), ({"expires_at": now}, KeyExpired)):
            with pytest.raises(refusal):
                check(keys.make("read", **columns).row.id)
        with pytest.raises(KeyUnknown):
            check(uuid.UUID(int=1))

    def test_without_keys_the_stream_continues_until_the_first_key(self, keys: Any, check: Any) -> None:
        check(None)
        keys.make("admin")
        with pytest.raises(KeyMissing):
            check(None)

    def test_a_stream_ends_when_its_key_is_revoked(
        self, app: FastAPI, serve: Any, keys: Any, records: Any, database: Database
    ) -> None:
        created, run = keys.make("read"), records.run(JobStatus.RUNNING)
        with database.transaction() as session:
            events.record(session, Run, run.id, 1, "status", {"status": "running"})
        with serve(app) as url, Client(url, created.secret) as following:
            stream = following.events(run.id)
            next(stream)
            with database.sessions() as session:
                service.revoke(session, created.row.id)
            with database.transaction() as session:
                events.notify_job(session, "run", run.id)
            with pytest.raises(ApiError) as raised:
                list(stream)
        assert (raised.value.status, raised.value.code) == (401, "key_revoked")


class TestHeader:
    @pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER  {}", " Bearer {} "])
    def test_the_scheme_is_case_insensitive(self, away: TestClient, keys: Any, form: str) -> None:
        secret = keys.make("read").secret
        assert away.get("/runs", headers={"Authorization": form.format(secret)}).status_code == 200

    @pytest.mark.parametrize("form", ["Basic {}", "{}", "Bearer", "Bearer g2k_", "Bearer {} {}", "Bearer é{}"])
    def test_other_headers_are_malformed(self, away: TestClient, keys: Any, form: str) -> None:
        secret = keys.make("read").secret
        answer = away.get("/runs", headers={b"Authorization": form.format(secret, secret).encode("latin-1")})
        assert (answer.status_code, answer.json()["code"]) == (401, "key_malformed")
        assert secret[12:] not in answer.text

    def test_two_headers_are_rejected(self, away: TestClient, keys: Any) -> None:
        both = [("Authorization", f"Bearer {keys.make('read').secret}") for _ in range(2)]
        assert away.get("/runs", headers=both).json()["code"] == "key_malformed"

    def test_a_matching_prefix_is_not_sufficient(self, away: TestClient, keys: Any) -> None:
        from service.core.api_key_format import _checksum

        good = keys.make("read").secret
        body = good[:12] + "0" * 24
        assert away.get("/runs", headers=shown(body + _checksum(body))).json()["code"] == "key_unknown"
