"""`/score` and `/scores`: requests, errors and views."""

import base64
import io
import struct
import uuid
import zlib
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import select

from service.api.scores.images import as_rgb
from service.contracts.status import JobStatus
from service.db.models import Garbage, Score, ScoreImage
from service.db.session import Database


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> str:
    data = io.BytesIO()
    image.save(data, format, **options)
    return base64.b64encode(data.getvalue()).decode()


RED = encoded(Image.new("RGB", (8, 8), "red"))


def body(*images: str, **changes: Any) -> dict[str, Any]:
    images = [{"prompt": f" image {index} ", "image": image} for index, image in enumerate(images or (RED,))]
    return {"rewards": ["clip_score"], "images": images} | changes


def png(*chunks: tuple[bytes, bytes]) -> str:
    """A PNG of the chunks."""
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks:
        data += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return base64.b64encode(data).decode()


def huge(width: int, height: int) -> str:
    """A PNG of a few bytes whose header declares a large size."""
    return png((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"")))


class TestCreate:
    @pytest.mark.parametrize(("width", "height", "status"), [(1, 4000, 202), (4000, 1, 202), (1, 16_385, 422)])
    def test_any_aspect_ratio_is_accepted_up_to_the_maximum_side(
        self, client: TestClient, width: int, height: int, status: int
    ) -> None:
        response = client.post("/score", json=body(encoded(Image.new("RGB", (width, height)))))
        assert response.status_code == status
        assert status == 202 or "must be at most 16384" in response.json()["detail"]

    def test_images_are_stored_as_rgb(self, client: TestClient, database: Database) -> None:
        formats = [encoded(Image.new("RGB", (8, 8), "red"), one) for one in ("PNG", "JPEG", "WEBP")]
        response = client.post("/score", json=body(*formats))
        assert response.status_code == 202, response.text
        shown = response.json()
        assert response.headers["Location"] == f"/scores/{shown['id']}"
        assert client.get(response.headers["Location"]).json() == shown
        assert (shown["status"], shown["queue_position"], shown["total_images"]) == ("queued", 1, 3)
        assert [one["prompt"] for one in shown["images"]] == ["image 0", "image 1", "image 2"]
        assert shown["versions"] is None and {one["values"] for one in shown["images"]} == {None}
        with database.transaction() as session:
            rows = session.scalars(select(ScoreImage).order_by(ScoreImage.number)).all()
            assert session.get_one(Score, rows[0].score_id).requested["images"][0].keys() == {
                "prompt",
                "image_sha256",
            }
        for row in rows:
            with Image.open(io.BytesIO(database.artifacts.read(row.key, row.sha256))) as image:
                assert (image.format, image.mode, image.size) == ("PNG", "RGB", (8, 8))
                assert all(abs(a - b) < 8 for a, b in zip(image.getpixel((4, 4)), (255, 0, 0), strict=True))

    def test_images_of_a_generation_are_scored(self, client: TestClient, records: Any) -> None:
        spec = {"model": "shapes-flux", "checkpoints": ["base"], "prompts": ["a", "b"], "num_images": 1}
        drawn = records.generation({**spec, "width": 8, "height": 8}, JobStatus.SUCCEEDED)
        for number in (0, 1):
            records.image(drawn, number, base64.b64decode(RED), prompt_index=number)
        shown = client.post("/score", json={"rewards": ["clip_score"], "generation": str(drawn.id)}).json()
        assert [(one["number"], one["prompt"]) for one in shown["images"]] == [(0, "a"), (1, "b")]
        assert shown["generation"] == str(drawn.id)
        going = records.generation(spec, JobStatus.RUNNING)
        refused = client.post("/score", json={"rewards": ["clip_score"], "generation": str(going.id)})
        assert (refused.status_code, refused.json()["code"]) == (409, "not_finished")

    @pytest.mark.parametrize(
        ("change", "loc", "says"),
        [
            ({"rewards": []}, ["rewards"], "at least 1"),
            ({"rewards": ["beauty"]}, ["rewards", 0], "the catalog has clip_score"),
            ({"rewards": ["clip_score", "clip_score"]}, ["rewards"], "more than once"),
            ({"images": []}, ["images"], "at least 1"),
            ({"images": None}, [], "either `images` or `generation`"),
            ({"generation": str(uuid.UUID(int=7))}, [], "either `images` or `generation`"),
            ({"images": None, "generation": str(uuid.UUID(int=7))}, ["generation"], "not found"),
            ({"images": [{"prompt": " ", "image": RED}]}, ["images", 0, "prompt"], "at least 1"),
            ({"images": [{"prompt": "a", "image": RED}] * 257}, ["images"], "the maximum is 256"),
        ],
    )
    def test_an_invalid_request_is_rejected_by_field(
        self, client: TestClient, change: dict[str, Any], loc: list[str | int], says: str
    ) -> None:
        response = client.post("/score", json=body(**change))
        assert response.status_code == 422
        errors = response.json()["errors"]
        assert any(error["loc"] == ["body", *loc] and says in error["msg"] for error in errors), errors

    @pytest.mark.parametrize(
        ("image", "type", "says"),
        [
            ("an image!", "not_base64", "base64"),
            (base64.b64encode(b"no image").decode(), "not_an_image", "PNG, JPEG or WEBP"),
            (encoded(Image.new("RGB", (8, 8)), "GIF"), "not_an_image", "PNG, JPEG or WEBP"),
            (base64.b64encode(base64.b64decode(RED)[:-30]).decode(), "not_an_image", "truncated"),
            (huge(5000, 5000), "too_many_pixels", "16777216 are left"),
            (huge(100_000, 100_000), "not_an_image", "decompression bomb"),
            (
                encoded(
                    Image.new("RGB", (8, 8)), "WEBP", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")]
                ),
                "animation",
                "send a single image",
            ),
        ],
    )
    def test_invalid_images_are_named(self, client: TestClient, image: str, type: str, says: str) -> None:
        response = client.post("/score", json=body(RED, image))
        (error,) = response.json()["errors"]
        assert (error["loc"], error["type"]) == (["body", "images", 1, "image"], type)
        assert says in error["msg"]

    def test_a_repeated_request_creates_one_scoring(self, client: TestClient, database: Database) -> None:
        name = {"Idempotency-Key": "once"}
        first, again = (client.post("/score", json=body(), headers=name) for _ in range(2))
        assert (first.json()["id"], again.headers["Idempotency-Replayed"]) == (again.json()["id"], "true")
        assert client.post("/score", json=body(RED, RED), headers=name).json()["code"] == "idempotency_mismatch"
        assert list(database.artifacts.names("scores")) == [first.json()["id"]]


class TestImages:
    @pytest.mark.parametrize(
        ("image", "expected"),
        [
            (Image.new("RGBA", (1, 1), (255, 0, 0, 0)), (255, 255, 255)),
            (Image.new("RGBA", (1, 1), (255, 0, 0, 255)), (255, 0, 0)),
            (Image.new("LA", (1, 1), (10, 255)), (10, 10, 10)),
            (Image.new("L", (1, 1), 7), (7, 7, 7)),
            (Image.new("1", (1, 1), 1), (255, 255, 255)),
            (Image.new("RGB", (1, 1), (1, 2, 3)).quantize(), (1, 2, 3)),
            (Image.new("CMYK", (1, 1), (0, 0, 0, 255)), (0, 0, 0)),
            (Image.fromarray(np.array([[0x8001]], dtype=np.uint16)), (0x80, 0x80, 0x80)),
        ],
    )
    def test_every_mode_becomes_rgb(self, image: Image.Image, expected: tuple[int, int, int]) -> None:
        plain = as_rgb(image)
        assert (plain.mode, plain.getpixel((0, 0))) == ("RGB", expected)

    @pytest.mark.parametrize(
        ("depth", "color_type", "samples", "key", "expected"),
        [
            (16, 0, [[0], [32768], [32769], [40000]], (32768,), [0, 255, 128, 156]),
            (16, 2, [[0, 0, 0], [32768, 0, 0], [32769, 0, 0], [40000, 0, 0]], (32768, 0, 0), [0, 255, 128, 156]),
            (8, 0, [[0], [1], [2], [255]], (1,), [0, 255, 2, 255]),
            (4, 0, [[0x01], [0xF2]], (1,), [0, 255, 255, 34]),
            (2, 0, [[0b00011011]], (1,), [0, 255, 170, 255]),
            (1, 0, [[0b00010000]], (0,), [255, 255, 255, 255]),
        ],
    )
    def test_a_transparent_color_is_compared_with_all_bits(
        self,
        client: TestClient,
        database: Database,
        depth: int,
        color_type: int,
        samples: list[list[int]],
        key: tuple[int, ...],
        expected: list[int],
    ) -> None:
        row = np.array(samples, dtype=">u2" if depth == 16 else ">u1").tobytes()
        data = png(
            (b"IHDR", struct.pack(">IIBBBBB", 4, 1, depth, color_type, 0, 0, 0)),
            (b"tRNS", struct.pack(f">{len(key)}H", *key)),
            (b"IDAT", zlib.compress(b"\0" + row)),
            (b"IEND", b""),
        )
        assert client.post("/score", json=body(data)).status_code == 202
        with database.transaction() as session:
            stored = session.scalars(select(ScoreImage)).one()
        with Image.open(io.BytesIO(database.artifacts.read(stored.key, stored.sha256))) as image:
            assert np.asarray(image)[0, :, 0].tolist() == expected


class TestLife:
    def test_a_cancelled_scoring_is_deleted_with_its_images(self, client: TestClient, database: Database) -> None:
        id = client.post("/score", json=body()).json()["id"]
        assert client.delete(f"/scores/{id}").json()["code"] == "wrong_state"
        assert client.post(f"/scores/{id}/cancel").json()["status"] == "cancelled"
        assert [one["id"] for one in client.get("/scores?status=cancelled").json()["items"]] == [id]
        assert client.delete(f"/scores/{id}").status_code == 204
        assert client.get(f"/scores/{id}").status_code == 404
        with database.transaction() as session:
            assert session.scalars(select(Garbage.prefix)).all() == [f"scores/{id}"]
