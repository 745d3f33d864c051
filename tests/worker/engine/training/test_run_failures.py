"""Failing rewards, non-finite numbers, cancellation and invalid requests of training runs."""

import json
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from service.contracts.attempt_files import CONTROL_FILE
from service.contracts.catalog import RewardEntry, load_catalog
from service.contracts.presets import merge
from tests.worker.engine.training.miniature import MINIATURE, events, metrics, small, spec, trainer
from worker.engine.rewards.base import Reward
from worker.engine.training.checkpoint import read_manifest
from worker.engine.training.event_log import Cancelled, EventWriter
from worker.engine.training.optimizer import NotFinite
from worker.engine.training.reward_failures import RewardsFailed, RewardsUnavailable
from worker.entrypoints.train import build_trainer, classify, main
from worker.shapes.caption_sampling import train_prompts

pytestmark = pytest.mark.long


class Broken(Reward):
    """A reward whose server is down."""

    @classmethod
    def load(cls, entry: RewardEntry, device: torch.device) -> "Broken":
        return cls()

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        raise ConnectionError("the reward server does not answer")


LITTLE = {"every": 2, "pairs": 2, "final_pairs": 2, "samples": 0}


def test_failing_reward_is_counted_and_the_run_continues(tmp_path: Path) -> None:
    subject = small(tmp_path, training={"max_steps": 2, "max_missing_rewards": 1.0}, heldout=LITTLE)
    subject.scorer.rewards["shapes_verifier"] = Broken()
    subject.run()
    failures = [value for _, name, value in metrics(tmp_path) if name == "failures/shapes_verifier"]
    assert failures == [2 * 2 * 2 * 2] * 2
    (last,) = events(tmp_path, "finished")
    assert set(last["heldout"]) == {"clip_score"}


def test_repeatedly_failing_reward_pauses_the_run_before_the_update(tmp_path: Path) -> None:
    training = {"max_steps": 2, "max_missing_steps": 2}
    subject = small(tmp_path, training=training)
    subject.scorer.rewards["shapes_verifier"] = Broken()
    with pytest.raises(
        RewardsUnavailable, match=r"'shapes_verifier' failed for 16 of 16 images; .* in 2 consecutive steps"
    ) as away:
        subject.run()
    subject.pause(away.value.cause)
    (last,) = events(tmp_path, "finished")
    assert (last["outcome"], last["step"], last["cause"]["code"]) == ("paused", 1, "rewards_failed")
    assert "the reward server does not answer" in last["cause"]["detail"]
    again = small(tmp_path / "again", training=training)
    again.checkpoints.resume(tmp_path / "checkpoints" / "step-000001")
    assert again.failures.streaks == {"shapes_verifier": 1}
    again.run()
    assert [event["outcome"] for event in events(tmp_path / "again", "finished")] == ["succeeded"]
    assert again.failures.streaks == {}


def test_run_fails_with_the_cause_when_every_reward_fails(tmp_path: Path) -> None:
    subject = small(tmp_path, heldout=LITTLE)
    subject.scorer.rewards = {name: Broken() for name in subject.scorer.rewards}
    with pytest.raises(RewardsFailed, match="the reward server does not answer") as failure:
        subject.run()
    assert classify(failure.value).code == "rewards_failed"


def test_nonfinite_model_fails_the_run(tmp_path: Path) -> None:
    subject = small(tmp_path)
    with torch.no_grad():
        subject.optimizer.parameters[0].fill_(torch.nan)
    with pytest.raises(NotFinite, match="3 consecutive updates"):
        subject.run()


def test_skipped_update_keeps_the_policy_and_is_counted(tmp_path: Path) -> None:
    subject = trainer(tmp_path)
    before = [parameter.clone() for parameter in subject.optimizer.parameters]
    subject.optimizer.step(1, rate=1.0, norm=float("nan"))
    assert all(torch.equal(a, b) for a, b in zip(before, subject.optimizer.parameters, strict=True))
    subject.optimizer.step(1, rate=1.0, norm=float("inf"))
    with pytest.raises(NotFinite, match="3 consecutive updates"):
        subject.optimizer.step(1, rate=1.0, norm=float("nan"))


def test_cancelled_run_stops_between_batches(tmp_path: Path) -> None:
    subject = trainer(tmp_path, sampling={"rollout_batch_size": 4}, heldout={"every": 0})
    prompts = subject.prompts.sample(0, 3)

    def cancel_in_the_rollout(*_: object) -> None:
        (tmp_path / CONTROL_FILE).write_text('{"action": "cancel"}')

    hook = subject.model.transformer.register_forward_hook(cancel_in_the_rollout)
    with pytest.raises(Cancelled):
        subject.rollout.sample(prompts, subject.model.encode(prompts))
    hook.remove()
    assert not events(tmp_path, "metrics")


def run_program(directory: Path, request: dict[str, Any], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and last event of the program, started from the command line."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "request.json").write_text(json.dumps(request))
    code = main([str(directory / "request.json"), "--out", str(directory / "out"), "--device", "cpu", *arguments])
    last = (directory / "out/events.jsonl").read_text().splitlines()[-1]
    return code, json.loads(last)


def test_program_needs_no_server(tmp_path: Path) -> None:
    code, last = run_program(tmp_path, merge(MINIATURE, {"training": {"max_steps": 1}}))
    assert (code, last["type"], last["outcome"]) == (0, "finished", "succeeded")
    assert read_manifest(tmp_path / "out/checkpoints/step-000001").step == 1
    (started,) = events(tmp_path / "out", "started")
    assert started["provenance"]["device"] == "cpu"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "flux-9"}, "Unknown model 'flux-9'"),
        ({"prompts": {"items": ["a small red dinosaur on white"]}}, "does not know dinosaur"),
        ({"algorithm": {"group_size": 1}}, "group_size"),
    ],
)
def test_invalid_spec_is_reported_by_the_last_event(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    code, last = run_program(tmp_path, merge(MINIATURE, changes))
    assert (code, last["type"], last["code"]) == (1, "failed", "bad_config")
    assert message in last["detail"]


def test_invalid_prompt_is_found_before_the_first_step(tmp_path: Path) -> None:
    prompts = [*train_prompts()[:50], "a small red dinosaur on white"]
    code, last = run_program(tmp_path, merge(MINIATURE, {"prompts": {"items": prompts}}))
    assert (code, last["code"]) == (1, "bad_config")
    assert not events(tmp_path / "out", "metrics", "started")


def test_invalid_held_out_prompt_is_found_before_the_run(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "a small red circle on white"}\n{"prompt": "a small red dinosaur on white"}\n')
    changed = spec(heldout={"prompts": "mine"})
    with pytest.raises(ValueError, match="dinosaur"):
        build_trainer(changed, load_catalog(), EventWriter(tmp_path), "cpu", prompt_sets={"mine": file})


def test_directory_of_a_run_is_not_overwritten(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text("{}")
    before = (finished / "events.jsonl").read_bytes()
    assert main([str(tmp_path / "request.json"), "--out", str(finished)]) == 2
    assert (finished / "events.jsonl").read_bytes() == before


def test_damaged_start_checkpoint_is_rejected(finished: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "checkpoint"
    damaged.mkdir()
    for path in (finished / "checkpoints/step-000004").iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    with (damaged / "pytorch_lora_weights.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    code, last = run_program(tmp_path, MINIATURE, "--start-from", str(damaged))
    assert (code, last["code"]) == (1, "bad_config")
    assert "missing or was changed" in last["detail"]


class FillsTheDisk(Broken):
    """A reward that limits the size of this process's files once the first checkpoint exists."""

    checkpoint: Path

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        if self.checkpoint.exists():
            # The next optimizer state does not fit into 300 KiB, but the events do.
            resource.setrlimit(resource.RLIMIT_FSIZE, (300 * 1024, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return torch.zeros(len(images))


@pytest.fixture
def file_sizes() -> Iterator[None]:
    """Restore the file size limit after the test."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_keeps_the_last_checkpoint_and_is_reported(
    file_sizes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "out/checkpoints/step-000001"
    filling = type("Filling", (FillsTheDisk,), {"checkpoint": first})
    monkeypatch.setattr("worker.engine.rewards.shapes_verifier.ShapesVerifierReward", filling)
    changes = {"training": {"max_steps": 3}, "checkpoints": {"every": 1}, "heldout": {"every": 0}}
    code, last = run_program(tmp_path, merge(MINIATURE, changes))

    assert code == 1
    assert (last["type"], last["code"]) == ("failed", "disk_full")
    assert [path.name for path in first.parent.iterdir()] == ["step-000001"]
    assert read_manifest(first).step == 1
