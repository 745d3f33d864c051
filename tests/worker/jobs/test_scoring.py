"""Scorings: values equal those of the reward, and a failing reward does not affect others."""

import hashlib
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL import Image
from sqlalchemy import select

from service.contracts.catalog import RewardEntry, load_catalog
from service.contracts.generations import GenerationSpec
from service.contracts.scores import RewardValue
from service.contracts.status import JobStatus
from service.db.models import Generation, GenerationImage, Score, ScoreImage
from service.db.session import Database
from worker.engine import rewards
from worker.engine.inference.image_scorer import NO_NUMBER, ImageScorer
from worker.engine.inference.model_cache import MODEL_CACHE, ModelCache
from worker.engine.models.images import read_png
from worker.engine.models.sources import fingerprint
from worker.engine.rewards import load_reward
from worker.jobs import scoring
from worker.jobs.claim import claim_next
from worker.jobs.generation import GenerationJobType
from worker.jobs.job_runner import run_job
from worker.jobs.scoring import ScoreJobType

CAPTIONS = ("a small red circle above a large blue square on white", "a large green triangle on white")


def add(database: Database, names: list[str], images: Sequence[tuple[str, str, str]]) -> uuid.UUID:
    """A queued scoring of stored images: prompt, key and hash of each."""
    row = Score(requested={}, spec={"rewards": names, "generation": None}, spec_version=1, total_images=len(images))
    with database.transaction() as session:
        session.add(row)
        session.flush()
        for number, (prompt, key, sha256) in enumerate(images):
            place = {"score_id": row.id, "number": number, "prompt": prompt, "width": 32, "height": 32}
            session.add(ScoreImage(**place, key=key, sha256=sha256, size=1))
    return row.id


def perform(database: Database) -> None:
    claim = claim_next(database, ScoreJobType(), "worker:1")
    assert claim is not None
    run_job(database, claim, threading.Event())


def found(database: Database, id: uuid.UUID) -> tuple[Score, list[list[RewardValue]]]:
    """The scoring, and the values of each image."""
    with database.transaction() as session:
        row = session.get_one(Score, id)
        own = select(ScoreImage).where(ScoreImage.score_id == id).order_by(ScoreImage.number)
        values = [[RewardValue.model_validate(one) for one in each.values or ()] for each in session.scalars(own)]
    return row, values


@pytest.fixture
def drawn(database: Database) -> list[GenerationImage]:
    """Images that the worker drew."""
    spec = GenerationSpec(prompts=CAPTIONS, num_images=2, steps=4, guidance=3.5, width=32, height=32)
    with database.transaction() as session:
        session.add(row := Generation(requested={}, spec=spec.model_dump(mode="json"), spec_version=1))
    claim = claim_next(database, GenerationJobType(), "worker:1")
    assert claim is not None
    run_job(database, claim, threading.Event())
    with database.transaction() as session:
        own = select(GenerationImage).where(GenerationImage.generation_id == row.id)
        return list(session.scalars(own.order_by(GenerationImage.number)))


def test_values_equal_the_reward(database: Database, drawn: list[GenerationImage]) -> None:
    prompts = [CAPTIONS[image.prompt_index] for image in drawn]
    names = ["clip_score", "shapes_verifier"]
    id = add(database, names, [(p, image.key, image.sha256) for p, image in zip(prompts, drawn, strict=True)])

    perform(database)

    row, values = found(database, id)
    assert (row.status, row.progress and row.progress["step"]) == (JobStatus.SUCCEEDED, 4)
    images = torch.stack([read_png(database.artifacts.read(image.key, image.sha256)) for image in drawn])
    for column, name in enumerate(names):
        entry = load_catalog().reward(name)
        own = load_reward(entry, torch.device("cpu")).score(images, prompts).float()
        ours = torch.tensor([one[column].value for one in values])
        assert torch.equal(ours, own)
        assert [one[column].normalized for one in values] == [entry.normalized(value) for value in own.tolist()]
    assert row.rewards is not None and [one["name"] for one in row.rewards] == names
    clip = load_catalog().reward("clip_score")
    assert clip.source is not None and row.rewards[0]["weights"] == fingerprint(clip.source)


class Broken(rewards.Reward):
    @classmethod
    def load(cls, entry: RewardEntry, device: torch.device) -> "Broken":
        return cls()

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        raise RuntimeError("its server is away")


class Missing(Broken):
    @classmethod
    def load(cls, entry: RewardEntry, device: torch.device) -> "Missing":
        raise ValueError("the weights are not there")


@pytest.mark.parametrize(("kind", "cause"), [(Broken, "its server is away"), (Missing, "the weights are not there")])
def test_failing_reward_does_not_affect_others(
    database: Database,
    drawn: list[GenerationImage],
    monkeypatch: pytest.MonkeyPatch,
    kind: type[rewards.Reward],
    cause: str,
) -> None:
    monkeypatch.setattr("worker.engine.rewards.shapes_verifier.ShapesBenchVerifierReward", kind)
    monkeypatch.setattr(
        scoring, "_scorer", lambda: ImageScorer(cache=ModelCache())
    )  # that has not loaded the other class
    broken = next(one.name for one in load_catalog().rewards if one.kind == "shapes_bench_verifier")
    id = add(database, [broken, "clip_score"], [(CAPTIONS[0], drawn[0].key, drawn[0].sha256)])

    perform(database)

    row, [[failed, other]] = found(database, id)
    assert row.status is JobStatus.SUCCEEDED
    assert (failed.status, failed.value, failed.normalized) == ("failed", None, None)
    assert failed.cause is not None and cause in failed.cause
    assert other.status == "ok" and other.value is not None


def test_nan_is_null_for_that_image_only(database: Database, drawn: list[GenerationImage]) -> None:
    key = (drawn[0].key, drawn[0].sha256)
    id = add(database, ["shapes_verifier"], [("no caption of the world", *key), (CAPTIONS[0], *key)])

    perform(database)

    _, [[unknown], [known]] = found(database, id)
    assert (unknown.status, unknown.value, unknown.cause) == ("failed", None, NO_NUMBER)
    assert known.status == "ok"


def test_lost_image_does_not_affect_others(database: Database, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    stored = database.artifacts.put_file(tmp_path / "red.png", "scores/x/0.png")
    lost = ("a", "scores/x/1.png", hashlib.sha256(b"").hexdigest())
    id = add(database, ["clip_score"], [lost, ("a", stored.key, stored.sha256)])

    perform(database)

    row, [[gone], [there]] = found(database, id)
    assert row.status is JobStatus.SUCCEEDED
    assert gone.cause is not None and "artifact store" in gone.cause
    assert there.status == "ok"


class LetsGo(Broken):
    """Tries to release the worker's models while it scores."""

    went: ClassVar[list[list[str]]] = []

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        self.went.append(MODEL_CACHE.release(0.0))
        return torch.zeros(len(prompts))


def test_loaded_rewards_stay_until_scoring_ends(
    database: Database, drawn: list[GenerationImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    MODEL_CACHE.release(0.0)
    monkeypatch.setattr("worker.engine.rewards.shapes_verifier.ShapesBenchVerifierReward", LetsGo)
    asking = next(one.name for one in load_catalog().rewards if one.kind == "shapes_bench_verifier")
    id = add(database, [asking, "clip_score"], [(CAPTIONS[0], drawn[0].key, drawn[0].sha256)])

    perform(database)

    assert LetsGo.went == [[]]
    assert MODEL_CACHE.release(0.0) == [asking, "clip_score"]
    assert found(database, id)[0].status is JobStatus.SUCCEEDED


def test_changed_catalog_entry_loads_another_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, scorer = tmp_path / "catalog.yaml", ImageScorer(cache=ModelCache())
    monkeypatch.setenv("G2RPO_CATALOG", str(file))
    entry = "extends: bundled\nrewards: [{name: shapes_verifier, kind: %s, scale: %s}]"
    file.write_text(entry % ("shapes_verifier", "shares"))
    assert [one.kind for one in scorer.versions(["shapes_verifier"])] == ["shapes_verifier"]
    file.write_text(entry % ("shapes_bench_verifier", "points"))
    [version] = scorer.versions(["shapes_verifier"])
    assert (version.kind, version.scale) == ("shapes_bench_verifier", "points")


def test_least_recently_used_reward_is_unloaded_first() -> None:
    cache, loads = ModelCache(max_bytes=10), []

    def get(name: str) -> str:
        return cache.get(str, name, lambda: loads.append(name) or name, lambda _: 5)

    for name in ("a", "b", "a", "c", "a", "b"):
        assert get(name) == name
    assert loads == ["a", "b", "c", "b"]
