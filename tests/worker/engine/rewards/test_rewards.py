"""Rewards: their values, and the handling of their failures."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from service.contracts.catalog import RewardEntry, load_catalog
from worker.engine.rewards import Reward, load_reward
from worker.engine.rewards.base import score_or_missing
from worker.shapes.bench.caption_sampling import heldout_prompts as bench_prompts
from worker.shapes.bench.scene import draw
from worker.shapes.bench.scene_layout import realize
from worker.shapes.caption_sampling import heldout_prompts
from worker.shapes.grammar import parse
from worker.shapes.grammar import parse as parse_bench
from worker.shapes.render import render

CAPTIONS = list(heldout_prompts()[:32])
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def renders() -> Tensor:
    return render([parse(caption) for caption in CAPTIONS], seed=5)


@pytest.mark.parametrize("name", ["clip_score", "shapes_verifier"])
def test_image_scores_higher_with_its_own_caption(name: str, renders: Tensor) -> None:
    reward = load_reward(load_catalog().reward(name), CPU)
    own = reward.score(renders, CAPTIONS)
    other = reward.score(renders, CAPTIONS[1:] + CAPTIONS[:1])
    assert own.dtype == torch.float32
    assert own.shape == (32,)
    assert (own > other).float().mean() > 0.9


@pytest.mark.parametrize("name", ["clip_score", "shapes_verifier"])
def test_value_does_not_depend_on_the_batch(name: str, renders: Tensor) -> None:
    reward = load_reward(load_catalog().reward(name), CPU)
    together = reward.score(renders, CAPTIONS)
    parts = [reward.score(renders[i : i + 4], CAPTIONS[i : i + 4]) for i in range(0, 32, 4)]
    torch.testing.assert_close(torch.cat(parts), together, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["clip_score_2", "shapes_bench_verifier"])
def test_benchmark_image_scores_higher_with_its_own_caption(name: str) -> None:
    captions = list(bench_prompts()[:64])
    rng = np.random.default_rng(5)
    images = draw([realize(parse_bench(text), rng) for text in captions])
    reward = load_reward(load_catalog().reward(name), CPU)
    own, other = reward.score(images, captions), reward.score(images, captions[1:] + captions[:1])
    assert own.dtype == torch.float32
    assert (own > other).float().mean() > 0.85


def test_benchmarks_verifier_gives_partial_credit_and_knows_its_captions() -> None:
    red = draw([realize(parse_bench("a small red circle on white"), np.random.default_rng(6))]).repeat(3, 1, 1, 1)
    reward = load_reward(load_catalog().reward("shapes_bench_verifier"), CPU)
    values = reward.score(red, ["a small red circle on white", "a small blue circle on white", "a cat"])
    assert values[:2].tolist() == pytest.approx([1, 2 / 3]) and values[2].isnan()


def test_verifier_gives_no_value_for_other_prompts(renders: Tensor) -> None:
    reward = load_reward(load_catalog().reward("shapes_verifier"), CPU)
    values = reward.score(renders[:3], [CAPTIONS[0], "a large cat", CAPTIONS[2]])
    assert values.isfinite().tolist() == [True, False, True]


class Scripted(Reward):
    """A reward that returns the given result, or raises it."""

    def __init__(self, outcome: Tensor | Exception) -> None:
        self.outcome = outcome

    @classmethod
    def load(cls, entry: RewardEntry, device: torch.device) -> "Scripted":
        raise AssertionError("not loaded from a catalog")

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def test_reward_that_raises_is_missing_with_its_cause() -> None:
    values, causes = score_or_missing(Scripted(RuntimeError("no server")), "x", torch.zeros(3, 3, 4, 4), ["a"] * 3)
    assert values.isnan().all()
    assert causes == ["RuntimeError: no server"] * 3


def test_infinities_are_missing_and_good_values_stay() -> None:
    values, causes = score_or_missing(
        Scripted(torch.tensor([0.5, torch.inf, torch.nan])), "x", torch.zeros(3, 3, 4, 4), ["a"] * 3
    )
    assert values[0] == 0.5
    assert values[1:].isnan().all()
    assert causes == [""] * 3


def test_wrong_number_of_values_is_a_failure() -> None:
    values, causes = score_or_missing(Scripted(torch.zeros(2)), "x", torch.zeros(3, 3, 4, 4), ["a"] * 3)
    assert values.isnan().all()
    assert all("3 images" in cause for cause in causes)


def test_reward_without_a_model_accepts_move(renders: Tensor) -> None:
    reward = load_reward(load_catalog().reward("shapes_verifier"), CPU)
    before = reward.score(renders[:2], CAPTIONS[:2])
    reward.move(torch.device("meta"))
    assert torch.equal(reward.score(renders[:2], CAPTIONS[:2]), before)
