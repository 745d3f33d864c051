"""Averaged weights, the best checkpoint, early stopping, and non-finite updates."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from service.contracts.catalog import RewardEntry
from service.contracts.presets import merge
from tests.worker.engine.training.miniature import events, metrics, small, tensors
from worker.engine.rewards.base import Reward
from worker.engine.training.checkpoint import PARAMETERS_FILE, read_manifest
from worker.engine.training.early_stopping import BestValue
from worker.engine.training.optimizer import NotFinite
from worker.engine.training.trainer import Trainer
from worker.entrypoints.train import classify

TINY: dict[str, Any] = {
    "sampling": {"steps": 2},
    "algorithm": {"group_size": 2, "sde_steps": [0], "granularities": [1]},
    "training": {"prompts_per_step": 1, "update_batch_size": 1},
}
"""Very cheap steps, for tests of the saved results only."""
JUDGED: dict[str, Any] = {
    **TINY,
    "rewards": [{"name": "clip_score"}],
    "heldout": {"every": 1, "pairs": 2, "final_pairs": 2, "samples": 0, "rewards": ["shapes_verifier"]},
}
"""The verifier is a held-out reward only, so it is called once per evaluation."""


class Recorded(Reward):
    """A reward whose values are known beforehand."""

    def __init__(self, values: Iterator[float]) -> None:
        self.values = values

    @classmethod
    def load(cls, entry: RewardEntry, device: torch.device) -> "Recorded":
        return cls(iter(()))

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.full((len(images),), next(self.values))


def judged(directory: Path, values: Sequence[float], **changes: Any) -> Trainer:
    """A run with the held-out curve `values`."""
    subject = small(directory, **merge(JUDGED, changes))
    subject.scorer.rewards["shapes_verifier"] = Recorded(iter(values))
    return subject


def saved(directory: Path) -> list[tuple[int, float | None]]:
    return [(event["step"], event["best"]) for event in events(directory, "checkpoint")]


BEST = {"every": 0, "best": "shapes_verifier"}


def test_best_checkpoint_is_saved_and_marked(tmp_path: Path) -> None:
    judged(tmp_path, [0.25, 0.5, 0.5, 0.125, 0.75], checkpoints=BEST).run()
    assert saved(tmp_path) == [(0, 0.25), (1, 0.5), (4, 0.75)]
    for step, _ in saved(tmp_path):
        assert read_manifest(tmp_path / f"checkpoints/step-{step:06d}").step == step


def test_last_checkpoint_is_marked_best_only_if_it_is(tmp_path: Path) -> None:
    judged(tmp_path, [0.25, 0.5, 0.5, math.nan, 0.125], checkpoints=BEST).run()
    assert saved(tmp_path) == [(0, 0.25), (1, 0.5), (4, None)]


def test_resumed_run_keeps_the_best_value(tmp_path: Path) -> None:
    judged(tmp_path / "begun", [0.25, 0.5], training={"max_steps": 1}, checkpoints=BEST).run()
    resumed = judged(tmp_path / "resumed", [0.375, 0.5, 0.625], checkpoints=BEST)
    resumed.checkpoints.resume(tmp_path / "begun/checkpoints/step-000001")
    resumed.run()
    assert saved(tmp_path / "resumed") == [(4, 0.625)]


def early(patience: int, min_delta: float = 0.0) -> dict[str, Any]:
    stop = {"reward": "shapes_verifier", "patience": patience, "min_delta": min_delta}
    return {"heldout": JUDGED["heldout"] | {"early_stop": stop}, "training": {"max_steps": 9}}


def test_early_stopped_run_succeeds_with_a_checkpoint(tmp_path: Path) -> None:
    judged(tmp_path, [0.25, 0.5, 0.375, 0.4375, 0.5], **early(patience=3)).run()
    (end,) = events(tmp_path, "finished")
    assert (end["outcome"], end["step"]) == ("succeeded", 4)
    assert saved(tmp_path) == [(4, None)]
    summary = end["heldout"]["shapes_verifier"]
    assert (summary["before"], summary["after"], summary["pairs"]) == (0.25, 0.5, 2)


def test_rise_resets_the_patience(tmp_path: Path) -> None:
    judged(tmp_path, [0.25, 0.25, 0.5, 0.5, 0.625, 0.5, 0.5], **early(patience=2)).run()
    assert events(tmp_path, "finished")[0]["step"] == 6


def test_rise_below_min_delta_does_not_count(tmp_path: Path) -> None:
    judged(tmp_path, [0.25, 0.3125, 0.375], **early(patience=2, min_delta=0.125)).run()
    assert events(tmp_path, "finished")[0]["step"] == 2


def test_patience_persists_across_an_interruption(tmp_path: Path) -> None:
    changes = early(patience=3) | {"checkpoints": {"every": 2}}
    judged(tmp_path / "begun", [0.5, 0.25, 0.25], **(changes | {"training": {"max_steps": 2}})).run()
    resumed = judged(tmp_path / "resumed", [0.25, 0.25], **changes)
    resumed.checkpoints.resume(tmp_path / "begun/checkpoints/step-000002")
    resumed.run()
    assert events(tmp_path / "resumed", "finished")[0]["step"] == 3


def test_resumed_early_stopped_run_ends_immediately(tmp_path: Path) -> None:
    judged(tmp_path / "begun", [0.5, 0.25, 0.25], **early(patience=2)).run()
    again = judged(tmp_path / "again", [0.25], **early(patience=2))
    again.checkpoints.resume(tmp_path / "begun/checkpoints/step-000002")
    again.run()
    assert events(tmp_path / "again", "finished")[0]["heldout"] == events(tmp_path / "begun", "finished")[0]["heldout"]
    assert not metrics(tmp_path / "again", "^heldout/")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nonfinite_value_is_never_the_best(value: float) -> None:
    best = BestValue()
    assert not best.update(value) and best.value is None
    assert best.update(-1.0) and not best.update(value) and best.since == 1


AVERAGED: dict[str, Any] = {
    "training": {"ema_decay": 0.5, "learning_rate": 3e-3},
    "heldout": {"every": 4, "pairs": 4, "final_pairs": 4, "samples": 0},
}


@dataclass(frozen=True)
class Averaged:
    """A run that publishes averaged weights, and the weights before the run and after each step."""

    directory: Path
    subject: Trainer
    seen: list[list[Tensor]]


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Averaged:
    directory = tmp_path_factory.mktemp("averaged")
    subject = small(directory, **AVERAGED)
    seen = [[parameter.detach().clone() for parameter in subject.optimizer.parameters]]
    subject.optimizer.adamw.register_step_post_hook(
        lambda *_: seen.append([parameter.detach().clone() for parameter in subject.optimizer.parameters])
    )
    subject.run()
    return Averaged(directory, subject, seen)


def test_average_is_saved_and_evaluated(averaged: Averaged, tmp_path: Path) -> None:
    subject, seen = averaged.subject, averaged.seen
    last = averaged.directory / "checkpoints/step-000004"

    own = load_file(last / PARAMETERS_FILE)
    for number, parameter in enumerate(subject.optimizer.parameters):
        assert torch.equal(own[str(number)], seen[-1][number])
        assert torch.equal(parameter, seen[-1][number])
        average = seen[0][number]
        for weights in seen[1:]:
            average = 0.5 * average + 0.5 * weights[number]
        offered = subject.optimizer.ema
        assert offered is not None
        with offered.applied():
            torch.testing.assert_close(parameter.detach(), average, rtol=1e-5, atol=1e-7)
            assert not torch.equal(parameter, own[str(number)])

    fresh = small(tmp_path, training={"max_steps": 1}, heldout=AVERAGED["heldout"])
    fresh.checkpoints.start_from(last)
    fresh.run()
    measured = [row[1:] for row in metrics(averaged.directory, "^heldout/") if row[0] == 4]
    assert [row[1:] for row in metrics(tmp_path, "^heldout/") if row[0] == 0] == measured


def test_rollouts_use_the_weights_themselves(averaged: Averaged, tmp_path: Path) -> None:
    small(tmp_path, training=AVERAGED["training"] | {"ema_decay": None}).run()
    alike = [metrics(directory, "^(reward|ratio|loss|grad_norm)") for directory in (averaged.directory, tmp_path)]
    assert alike[0] and alike[0] == alike[1]
    own = load_file(averaged.directory / "checkpoints/step-000004" / PARAMETERS_FILE)
    plain = tensors(tmp_path / "checkpoints/step-000004")
    trained = {value for name, value in plain.items() if "lora" in name.lower()}
    assert {tensor.numpy().tobytes() for tensor in own.values()} == trained


def test_nonfinite_updates_are_skipped_then_fail_the_run_and_are_saved(tmp_path: Path) -> None:
    changes = {"algorithm": {"updates_per_rollout": 2}}
    small(tmp_path / "begun", training={"max_steps": 2}, **changes).run()
    last = tmp_path / "begun/checkpoints/step-000002"
    subject = small(tmp_path / "broken", training={"max_steps": 9, "max_nonfinite_updates": 5}, **changes)
    subject.checkpoints.resume(last)
    with torch.no_grad():
        subject.optimizer.parameters[0].fill_(torch.nan)
    with pytest.raises(NotFinite, match=r"5 consecutive updates, up to step 4; .*bad-step-000004") as failure:
        subject.run()

    assert classify(failure.value).code == "not_finite"
    assert [row[::2] for row in metrics(tmp_path / "broken", "^skipped_updates$")] == [(3, 2.0), (4, 4.0)]
    assert not (tmp_path / "broken/checkpoints").exists()
    assert read_manifest(last).step == 2
    with safe_open(tmp_path / "broken/bad-step-000004.safetensors", "pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        assert [file.metadata()[str(place)] for place in range(2)] == subject.prompts.sample(4, 2)
    assert held["states"].shape == (4, 16, 32)  # two prompts, two SDE steps
    assert held["samples"].shape == (4, 2, 16, 32)
    assert held["old_log_probs"].isnan().all()
    assert held["sde_steps"].tolist() == [0, 0, 2, 2] and held["prompts"].tolist() == [0, 1, 0, 1]
    assert held["members"].flatten().unique().tolist() == list(range(8))
    assert held["advantages"].shape == (8,)


def test_count_of_skipped_updates_persists_across_an_interruption(tmp_path: Path) -> None:
    subject = small(tmp_path / "begun", training={"max_steps": 1, "max_nonfinite_updates": 2})
    with torch.no_grad():
        subject.optimizer.parameters[0].fill_(
            3e38
        )  # finite, so that the checkpoint is valid, but the gradient overflows
    subject.run()
    resumed = small(tmp_path / "resumed", training={"max_steps": 3, "max_nonfinite_updates": 2})
    resumed.checkpoints.resume(tmp_path / "begun/checkpoints/step-000001")
    with pytest.raises(NotFinite, match="2 consecutive updates, up to step 1"):
        resumed.run()
