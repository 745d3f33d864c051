"""Unavailable rewards are rejected by name before the model is loaded or a device is used."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from service.contracts.catalog import Catalog, RewardEntry, load_catalog
from tests.worker.engine.training.miniature import spec
from worker.engine.rewards.base import Reward
from worker.engine.training.event_log import EventWriter
from worker.entrypoints.train import build_trainer


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """The bundled catalog with a model and rewards whose files do not exist."""
    model = load_catalog().model("shapes-flux").model_dump(mode="json", exclude_unset=True)
    nowhere = {"directory": str(tmp_path / "nowhere")}
    reward = {"scale": "-1 to 1", "source": nowhere}
    file = tmp_path / "catalog.yaml"
    more = {
        "models": [{**model, "name": "away", "source": nowhere}],
        "rewards": [{"name": f"{kind}_away", "kind": kind, **reward} for kind in ("clip", "hps", "image_reward")],
    }
    file.write_text(yaml.safe_dump({"extends": "bundled", **more}))
    monkeypatch.setenv("G2RPO_CATALOG", str(file))
    return load_catalog()


def build(catalog: Catalog, directory: Path, device: str, names: Sequence[str], **changes: Any) -> None:
    chosen = [{"name": name} for name in names]
    build_trainer(spec(rewards=chosen, **changes), catalog, EventWriter(directory), device)


@pytest.mark.parametrize("name", ["clip_away", "hps_away", "image_reward_away"])
def test_invalid_second_reward_is_found_before_the_model_is_loaded(catalog: Catalog, tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ValueError, match=f"reward '{name}': the weights directory .*nowhere in the catalog does not exist"
    ):
        build(catalog, tmp_path, "cuda", ["clip_score", name], model="away")  # tests have no such device


class Wanderer(Reward):
    """Records the device."""

    places: list[str]

    @classmethod
    def load(cls, entry: RewardEntry, device: torch.device) -> "Wanderer":
        cls.places = [str(device)]
        return cls()

    def move(self, device: torch.device) -> None:
        self.places.append(str(device))

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        raise NotImplementedError


@pytest.fixture
def wanderer(monkeypatch: pytest.MonkeyPatch) -> type[Wanderer]:
    """The reward `shapes_verifier`."""
    monkeypatch.setattr("worker.engine.rewards.shapes_verifier.ShapesVerifierReward", Wanderer)
    return Wanderer


def test_invalid_model_uses_no_device(catalog: Catalog, tmp_path: Path, wanderer: type[Wanderer]) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        build(catalog, tmp_path, "meta", ["shapes_verifier"], model="away")
    assert wanderer.places == ["cpu"]


@pytest.mark.parametrize(("offload", "places"), [(False, ["cpu", "cpu:0"]), (True, ["cpu", "cpu"])])
def test_rewards_move_to_their_scoring_device(
    catalog: Catalog, tmp_path: Path, wanderer: type[Wanderer], offload: bool, places: list[str]
) -> None:
    build(catalog, tmp_path, "cpu:0", ["shapes_verifier"], resources={"offload_rewards": offload})
    assert wanderer.places == places
