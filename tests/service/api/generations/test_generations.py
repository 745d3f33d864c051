"""`/generate` and `/generations`: images on request."""

import io
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import delete, func, select, text

from service.contracts.status import JobStatus
from service.db.events import notify_job
from service.db.models import Checkpoint, Garbage, Generation, GenerationImage, Score
from service.db.session import Database
from service.http.content_negotiation import preferred_wait
from tests.service.records import waits_for_a_lock

PROMPTS = ["a red circle", "a blue square left of a green triangle above a very long caption that has to be wrapped"]


def png(color: tuple[int, int, int], size: int = 32) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (size, size), color).save(data, "PNG")
    return data.getvalue()


def spec(**changes: Any) -> dict[str, Any]:
    """A resolved spec, as the service stores it."""
    values: dict[str, Any] = {"model": "shapes-flux", "checkpoints": ["base"], "prompts": PROMPTS, "num_images": 1}
    values |= {"seed": 7, "steps": 8, "guidance": 3.5, "width": 32, "height": 32}
    return values | changes


def finish(database: Database, id: uuid.UUID, status: JobStatus = JobStatus.SUCCEEDED) -> None:
    """End a generation as a worker does."""
    with database.transaction() as session:
        row = session.get_one(Generation, id)
        row.move_to(JobStatus.STARTING)
        row.move_to(JobStatus.RUNNING)
        row.move_to(status)
        notify_job(session, "generation", id)


class TestCreate:
    def test_defaults_are_those_of_the_model(self, client: TestClient) -> None:
        response = client.post("/generate", json={"prompts": [" a red circle "], "guidance": 0})
        assert response.status_code == 202
        shown = response.json()
        assert response.headers["Location"] == f"/generations/{shown['id']}"
        assert shown["spec"] == spec(prompts=["a red circle"], guidance=0.0, seed=0)
        assert (shown["status"], shown["queue_position"], shown["total_images"]) == ("queued", 1, 1)
        assert client.get(response.headers["Location"]).json() == shown

    def test_several_checkpoints_are_compared(self, client: TestClient, records: Any) -> None:
        checkpoint = records.checkpoint(records.run(JobStatus.SUCCEEDED), {"w": b"w"})
        body = {"checkpoints": ["base", str(checkpoint.id)], "prompts": PROMPTS, "num_images": 2}
        shown = client.post("/generate", json=body).json()
        assert shown["total_images"] == 8
        assert shown["spec"]["checkpoints"] == ["base", str(checkpoint.id)]

    def test_checkpoints_are_locked_in_the_order_of_deletion(
        self,
        client: TestClient,
        database: Database,
        records: Any,
        eventually: Callable[[Callable[[], object]], None],
    ) -> None:
        run = records.run(JobStatus.SUCCEEDED)
        older, newer = (records.checkpoint(run, {"w": b"w"}, step=step).id for step in (1, 2))
        answers: list[Any] = []
        post = {"json": {"prompts": ["a"], "checkpoints": [str(newer), str(older)]}}
        asking = threading.Thread(target=lambda: answers.append(client.post("/generate", **post)))  # type: ignore[arg-type]
        try:
            with database.transaction() as session:
                session.get_one(Checkpoint, older, with_for_update=True)
                asking.start()
                eventually(lambda: answers or waits_for_a_lock(database))
                session.get_one(Checkpoint, newer, with_for_update={"nowait": True})
        finally:
            asking.join(60)
        assert [answer.status_code for answer in answers] == [202]

    @pytest.mark.parametrize(
        ("change", "loc", "says"),
        [
            ({"model": "sdxl"}, ["model"], "the catalog has shapes-flux"),
            ({"prompts": []}, ["prompts"], "at least 1"),
            ({"prompts": ["a"] * 257}, ["prompts"], "at most 256"),
            ({"prompts": ["  "]}, ["prompts", 0], "at least 1"),
            ({"prompts": ["a\x00"]}, ["prompts", 0], "character 2 is U+0000"),
            ({"num_images": 0}, ["num_images"], "greater than or equal to 1"),
            ({"prompts": ["a"] * 32, "num_images": 64}, ["num_images"], "the maximum is 1024"),
            ({"width": 64}, ["width"], "multiples of 16 up to 32"),
            ({"width": 24}, ["width"], "multiple of 16"),
            ({"seed": -1}, ["seed"], "greater than or equal to 0"),
            ({"checkpoints": []}, ["checkpoints"], "at least 1"),
            ({"checkpoints": ["base", "base"]}, ["checkpoints"], "more than once"),
            ({"checkpoints": ["base", str(uuid.UUID(int=7))]}, ["checkpoints", 1], "not found"),
            ({"image": 1}, ["image"], "Unknown field 'image'"),
        ],
    )
    def test_an_invalid_request_is_rejected_by_field(
        self, client: TestClient, change: dict[str, Any], loc: list[str | int], says: str
    ) -> None:
        response = client.post("/generate", json={"prompts": ["a"], **change})
        assert response.status_code == 422
        errors = response.json()["errors"]
        assert any(error["loc"] == ["body", *loc] and says in error["msg"] for error in errors), errors

    def test_a_checkpoint_of_another_model_is_rejected(self, client: TestClient, records: Any) -> None:
        other = records.checkpoint(records.run(JobStatus.SUCCEEDED), {"w": b"w"}, model="flux-1-dev")
        response = client.post("/generate", json={"prompts": ["a"], "checkpoints": [str(other.id)]})
        (error,) = response.json()["errors"]
        assert error["loc"] == ["body", "checkpoints", 0] and "belongs to model 'flux-1-dev'" in error["msg"]


class TestWait:
    @pytest.mark.parametrize("status", [JobStatus.SUCCEEDED, JobStatus.FAILED])
    def test_a_waiting_request_returns_when_the_job_ends(
        self,
        client: TestClient,
        database: Database,
        eventually: Callable[[Callable[[], object]], None],
        status: JobStatus,
    ) -> None:
        answers: list[Any] = []
        post = {"json": {"prompts": ["a"]}, "headers": {"Prefer": "wait=60"}}
        asking = threading.Thread(target=lambda: answers.append(client.post("/generate", **post)))  # type: ignore[arg-type]
        asking.start()
        eventually(lambda: _one(database))
        began = time.monotonic()
        finish(database, _one(database), status)
        asking.join(60)
        assert time.monotonic() - began < 20
        (answer,) = answers
        assert (answer.status_code, answer.json()["status"]) == (200, status)
        assert answer.headers["Preference-Applied"] == "wait=60"

    def test_after_the_requested_time_the_response_has_the_location(self, client: TestClient) -> None:
        response = client.post("/generate", json={"prompts": ["a"]}, headers={"Prefer": "respond-async, wait=1"})
        assert (response.status_code, response.json()["status"]) == (202, "queued")
        assert response.headers["Location"] == f"/generations/{response.json()['id']}"

    def test_a_lost_listening_connection_does_not_lose_a_notification(
        self, client: TestClient, database: Database, eventually: Callable[[Callable[[], object]], None]
    ) -> None:
        answers: list[Any] = []
        post = {"json": {"prompts": ["a"]}, "headers": {"Prefer": "wait=60"}}
        asking = threading.Thread(target=lambda: answers.append(client.post("/generate", **post)))  # type: ignore[arg-type]
        asking.start()
        eventually(lambda: _one(database))
        with database.transaction() as session:
            session.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'g2rpo-listen' AND datname = current_database()"
                )
            )
        finish(database, _one(database))
        asking.join(30)
        assert [answer.status_code for answer in answers] == [200]

    @pytest.mark.parametrize(
        ("prefer", "seconds"),
        [
            (None, 0),
            ("", 0),
            ("wait=5", 5),
            ("respond-async, wait=10", 10),
            ("WAIT = 3; foo", 3),
            ('wait="4"', 4),
            ("wait=-1", 0),
            ("wait=1.5", 0),
            ("nowait=9", 0),
            ("wait=99999999999", 0),
        ],
    )
    def test_the_prefer_header_sets_the_wait(self, prefer: str | None, seconds: float) -> None:
        assert preferred_wait(prefer) == seconds


def _one(database: Database) -> Any:
    with database.sessions() as session:
        return session.scalar(select(Generation.id))


class TestImages:
    def test_images_are_returned_unchanged(self, client: TestClient, records: Any) -> None:
        row = records.generation(spec(), JobStatus.RUNNING)
        records.image(row, 1, png((255, 0, 0)), prompt_index=1)
        (image,) = client.get(f"/generations/{row.id}").json()["images"]
        assert (image["number"], image["prompt"], image["seed"]) == (1, PROMPTS[1], 7)
        response = client.get(image["url"])
        assert (response.status_code, response.content) == (200, png((255, 0, 0)))
        assert client.get(image["url"], headers={"If-None-Match": response.headers["ETag"]}).status_code == 304
        early = client.get(f"/generations/{row.id}/images/0")
        assert (early.status_code, early.json()["code"]) == (409, "not_finished")
        assert client.get(f"/generations/{row.id}/images/2").status_code == 404
        assert client.get(f"/generations/{row.id}/images/-1").status_code == 422

    def test_the_grid_has_a_row_per_prompt_and_seed_and_a_column_per_checkpoint(
        self, client: TestClient, records: Any
    ) -> None:
        checkpoint = str(records.checkpoint(records.run(JobStatus.SUCCEEDED), {"w": b"w"}).id)
        row = records.generation(spec(checkpoints=["base", checkpoint], num_images=2), JobStatus.SUCCEEDED)
        colors = [(40 * number, 200 - 20 * number, 30 * number) for number in range(8)]
        for number, color in enumerate(colors[:-1]):
            place = {"prompt_index": number // 2 % 2, "image_index": number % 2, "seed": number % 2}
            records.image(row, number, png(color), checkpoint=["base", checkpoint][number // 4], **place)
        response = client.get(f"/generations/{row.id}/grid.png")
        assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
        with Image.open(io.BytesIO(response.content)) as grid:
            pixels = grid.convert("RGB")
            for number, color in enumerate([*colors[:-1], (225, 225, 225)]):
                x = 12 + 220 + 6 + (number // 4) * (128 + 6) + 64
                y = 12 + 28 + (number % 4) * (128 + 6) + 64
                assert pixels.getpixel((x, y)) == color, number

    def test_only_a_succeeded_generation_has_a_grid(self, client: TestClient, records: Any) -> None:
        for status in (JobStatus.RUNNING, JobStatus.FAILED):
            response = client.get(f"/generations/{records.generation(spec(), status).id}/grid.png")
            assert (response.status_code, response.json()["code"]) == (409, "not_finished")

    def test_a_too_large_grid_is_rejected(self, client: TestClient, records: Any) -> None:
        row = records.generation(spec(width=4096, height=4096, prompts=["a"] * 5), JobStatus.SUCCEEDED)
        assert client.get(f"/generations/{row.id}/grid.png").status_code == 406

    def test_unknown_ids_are_not_found(self, client: TestClient) -> None:
        for path in ("", "/images/0", "/grid.png"):
            assert client.get(f"/generations/{uuid.uuid4()}{path}").status_code == 404


class TestCancel:
    def test_cancelling_twice_has_no_further_effect(self, client: TestClient, records: Any) -> None:
        for status, becomes in ((JobStatus.QUEUED, "cancelled"), (JobStatus.RUNNING, "cancelling")):
            row = records.generation(spec(), status)
            first = client.post(f"/generations/{row.id}/cancel")
            assert (first.status_code, first.json()["status"]) == (202, becomes)
            assert client.post(f"/generations/{row.id}/cancel").json() == first.json()

    def test_a_cancellation_ends_a_waiting_request(
        self, client: TestClient, database: Database, eventually: Callable[[Callable[[], object]], None]
    ) -> None:
        answers: list[Any] = []
        post = {"json": {"prompts": ["a"]}, "headers": {"Prefer": "wait=60"}}
        asking = threading.Thread(target=lambda: answers.append(client.post("/generate", **post)))  # type: ignore[arg-type]
        asking.start()
        eventually(lambda: _one(database))
        client.post(f"/generations/{_one(database)}/cancel")
        asking.join(30)
        assert [(answer.status_code, answer.json()["status"]) for answer in answers] == [(200, "cancelled")]


class TestDelete:
    @pytest.mark.parametrize("status", [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED])
    def test_an_ended_generation_is_deleted_with_its_images(
        self, client: TestClient, database: Database, records: Any, status: JobStatus
    ) -> None:
        other, row = (records.generation(spec(), one) for one in (JobStatus.SUCCEEDED, status))
        for generation in (other, row):
            records.image(generation, 0, png((255, 0, 0)))
        assert client.delete(f"/generations/{row.id}").status_code == 204
        for path in ("", "/images/0", "/grid.png"):
            assert client.get(f"/generations/{row.id}{path}").status_code == 404
        assert client.delete(f"/generations/{row.id}").status_code == 404
        assert [one["id"] for one in client.get("/generations").json()["items"]] == [str(other.id)]
        with database.sessions() as session:
            assert session.scalars(select(GenerationImage.generation_id)).all() == [other.id]
            assert session.scalars(select(Garbage.prefix)).all() == [f"generations/{row.id}"]

    @pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.STARTING, JobStatus.RUNNING, JobStatus.CANCELLING])
    def test_an_open_generation_is_not_deleted(
        self, client: TestClient, database: Database, records: Any, status: JobStatus
    ) -> None:
        row = records.generation(spec(), status)
        refused = client.delete(f"/generations/{row.id}")
        assert (refused.status_code, refused.json()["code"]) == (409, "wrong_state")
        assert f"is {status}" in refused.json()["detail"]
        assert client.get(f"/generations/{row.id}").status_code == 200
        with database.sessions() as session:
            assert session.scalars(select(Garbage.prefix)).all() == []

    def test_deletion_waits_for_scorings_of_its_images_which_remain(
        self, client: TestClient, database: Database, records: Any
    ) -> None:
        row = records.generation(spec(prompts=["a"]), JobStatus.SUCCEEDED)
        records.image(row, 0, png((255, 0, 0)))
        records.score({"rewards": ["clip_score"], "generation": None})
        scoring = client.post("/score", json={"rewards": ["clip_score"], "generation": str(row.id)}).json()
        refused = client.delete(f"/generations/{row.id}")
        assert (refused.status_code, refused.json()["code"]) == (409, "in_use")
        assert scoring["id"] in refused.json()["detail"]
        ended = client.post(f"/scores/{scoring['id']}/cancel").json()
        assert client.delete(f"/generations/{row.id}").status_code == 204
        assert client.get(f"/scores/{scoring['id']}").json() == ended
        assert ended["images"] == scoring["images"]

    def test_a_scoring_created_during_deletion_finds_no_generation(
        self,
        client: TestClient,
        database: Database,
        records: Any,
        eventually: Callable[[Callable[[], object]], None],
    ) -> None:
        row = records.generation(spec(prompts=["a"]), JobStatus.SUCCEEDED)
        records.image(row, 0, png((255, 0, 0)))
        answers: list[Any] = []
        post = {"json": {"rewards": ["clip_score"], "generation": str(row.id)}}
        asking = threading.Thread(target=lambda: answers.append(client.post("/score", **post)))
        with database.transaction() as session:
            session.execute(delete(Generation).where(Generation.id == row.id))
            asking.start()
            eventually(lambda: answers or waits_for_a_lock(database))
        asking.join(60)
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(422, "invalid_request")]
        with database.sessions() as session:
            assert session.scalar(select(func.count()).select_from(Score)) == 0

    def test_an_unknown_generation_is_not_found(self, client: TestClient) -> None:
        refused = client.delete(f"/generations/{uuid.uuid4()}")
        assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
