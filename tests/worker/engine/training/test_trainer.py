"""Whole runs of the training loop on the bundled model: what it records, and how it ends."""

import itertools
import json
import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from service.contracts.catalog import RewardEntry, load_catalog
from service.contracts.jobs import CONTROL_FILE
from service.contracts.plan import make_plan
from service.contracts.presets import merge
from tests.worker.engine.training.miniature import MINIATURE, events, metrics, newest, small, spec, tensors, trainer
from worker.engine.cpu_parallel import batch_size_per_thread
from worker.engine.rewards.base import Reward
from worker.engine.training.checkpoint import read_manifest
from worker.engine.training.event_log import Cancelled, Paused
from worker.engine.training.optimizer import NotFinite
from worker.engine.training.reward_failures import RewardsFailed, RewardsUnavailable
from worker.engine.training.trainer import Trainer
from worker.entrypoints.train import classify, main
from worker.shapes.sampling import train_prompts

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that was never interrupted."""
    directory = tmp_path_factory.mktemp("finished")
    trainer(directory).run()
    return directory


@dataclass(frozen=True)
class Half:
    """A run of the first two of the finished run's four steps."""

    directory: Path
    changed: set[str]
    """The names of the parameters that are others than before."""
    unchanged: set[str]


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Half:
    directory = tmp_path_factory.mktemp("half")
    subject = trainer(directory, training={"max_steps": 2})
    before = {name: p.clone() for name, p in subject.model.transformer.named_parameters()}
    subject.run()
    after = dict(subject.model.transformer.named_parameters())
    changed = {name for name, p in after.items() if not torch.equal(p, before[name])}
    return Half(directory, changed, after.keys() - changed)


def test_the_run_ends_with_a_summary_over_all_pairs(finished: Path) -> None:
    (last,) = events(finished, "finished")
    assert last["outcome"] == "succeeded"
    assert set(last["heldout"]) == {"clip_score", "shapes_verifier"}
    for row in last["heldout"].values():
        assert row["pairs"] == 8
        assert row["difference"] == pytest.approx(row["after"] - row["before"], abs=1e-9)
        assert row["interval95"][0] <= row["difference"] <= row["interval95"][1]


def test_evaluations_are_those_of_the_plan(finished: Path) -> None:
    plan = make_plan(spec(), load_catalog())
    totals = [value for _, name, value in metrics(finished) if name == "nfe/total"]
    updates = sum(value for _, name, value in metrics(finished) if name == "nfe/update")
    assert updates == plan.per_step_updates * 4
    assert totals[-1] == plan.total_nfe + updates
    per_step = [value for _, name, value in metrics(finished) if name == "nfe/continuation"]
    assert per_step == [plan.per_prompt.continuations * 3] * 4


def test_every_ratio_is_one_before_the_update(finished: Path) -> None:
    extremes = [value for _, name, value in metrics(finished, r"^ratio/(min|max)$")]
    assert len(extremes) == 8
    assert all(abs(value - 1) <= 1e-5 for value in extremes)


def test_the_ratio_test_can_fail(tmp_path: Path) -> None:
    subject = trainer(tmp_path)
    prompts = subject.prompts.sample(0, 3)
    conditioning = subject.model.encode(prompts)
    rollout = subject.rollout.sample(prompts, conditioning)
    advantages = subject.algorithm.advantages(subject.rollout.score(rollout.ends, prompts), [1.0, 1.0])
    with torch.no_grad():
        for parameter in subject.optimizer.parameters:
            parameter += 0.02
    update = subject.update_policy(prompts, conditioning, rollout.batch, advantages)
    assert max(abs(update["ratio/min"] - 1), abs(update["ratio/max"] - 1)) > 1e-5


def test_each_step_records_its_groups(finished: Path) -> None:
    for step, event in enumerate(events(finished, "reward_groups"), start=1):
        assert event["step"] == step
        assert len(event["groups"]) == 2 * 3 * 2 * 2  # rewards, prompts, SDE steps, granularities
        assert all(len(group["values"]) == 3 for group in event["groups"])
        assert {group["granularity"] for group in event["groups"]} == {1, 3}


def test_images_are_kept_with_their_rewards(finished: Path) -> None:
    samples = events(finished, "sample")
    assert [s["step"] for s in samples if s["kind"] == "heldout"] == [0, 0, 2, 2, 4, 4]
    assert {s["step"] for s in samples if s["kind"] == "best"} == {2, 4}
    for sample in samples:
        assert (finished / sample["file"]).stat().st_size == sample["size"]
    pairs = {}
    for sample in samples:
        if sample["kind"] != "heldout":
            pairs.setdefault((sample["step"], sample["index"]), {})[sample["kind"]] = sum(sample["rewards"].values())
    assert all(pair["best"] > pair["worst"] for pair in pairs.values())


def test_the_policy_moves_and_the_base_does_not(half: Half) -> None:
    assert half.changed and half.unchanged
    assert all("lora_" in name for name in half.changed)
    assert all("lora_" not in name for name in half.unchanged)


def test_the_same_spec_gives_the_same_metrics(half: Half, finished: Path) -> None:
    """Up to the end of the shorter run, which is evaluated as the longer one's middle is not."""
    told, known = newest(half.directory), newest(finished)
    common = {key for key in known if key[0] < 2}
    assert {step for step, _ in common} == {0, 1}
    assert {key: told[key] for key in common} == {key: known[key] for key in common}
    assert metrics(half.directory, "^(reward|ratio|loss|grad_norm)") == [
        row for row in metrics(finished, "^(reward|ratio|loss|grad_norm)") if row[0] <= 2
    ]


def test_full_fine_tuning_moves_every_weight(tmp_path: Path) -> None:
    subject = small(tmp_path, training={"adapter": "full", "max_steps": 1, "learning_rate": 1e-5})
    before = [parameter.clone() for parameter in subject.optimizer.parameters]
    subject.run()
    moved = [not torch.equal(a, b) for a, b in zip(before, subject.optimizer.parameters, strict=True)]
    assert sum(moved) / len(moved) > 0.9
    assert read_manifest(tmp_path / "checkpoints/step-000001").kind == "full"


FULL: dict[str, Any] = {
    "training": {"adapter": "full", "learning_rate": 1e-4, "max_steps": 2},
    "heldout": {"every": 1},
    "checkpoints": {"every": 1},
}


@pytest.mark.parametrize(("adapter", "changes", "middle"), [("lora", {}, 2), ("full", FULL, 1)])
def test_resuming_ends_bit_identical(
    adapter: str, changes: dict[str, Any], middle: int, finished: Path, tmp_path: Path
) -> None:
    straight = finished if adapter == "lora" else tmp_path / "straight"
    if adapter == "full":
        trainer(straight, **changes).run()
    resumed = trainer(tmp_path / "resumed", **changes)
    resumed.checkpoints.resume(straight / f"checkpoints/step-{middle:06d}")
    resumed.run()

    one, other = (root / f"checkpoints/step-{2 * middle:06d}" for root in (straight, tmp_path / "resumed"))
    assert read_manifest(one).kind == adapter
    assert tensors(one) == tensors(other)
    assert tensors(one) != tensors(straight / f"checkpoints/step-{middle:06d}")
    told, known = newest(tmp_path / "resumed"), newest(straight)
    assert told == {key: value for key, value in known.items() if key[0] > middle or key in told}
    # An attempt between the two may have logged totals of the middle step before its evaluation.
    assert {(middle, "nfe/total"), (middle, "images/total")} <= told.keys()
    assert events(tmp_path / "resumed", "finished")[0]["heldout"] == events(straight, "finished")[0]["heldout"]


def call(subject: Trainer, number: int, action: Callable[[], object]) -> None:
    """Do something during the `number`-th forward of the model from now on."""
    calls = itertools.count(1)

    def hook(*_: object) -> None:
        if next(calls) == number:
            action()

    subject.model.transformer.register_forward_hook(hook)


def ask(directory: Path, **control: Any) -> None:
    (directory / CONTROL_FILE).write_text(json.dumps(control))


def test_a_long_update_is_known_to_be_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engine.training.progress.PROGRESS_SECONDS", 0.0)
    small(tmp_path, training={"max_steps": 1, "update_batch_size": 1}).run()
    told = [event for event in events(tmp_path, "progress") if event["phase"] == "update"]
    assert len(told) == 1 + 2 * 2  # at the start, and after each of two prompts' two steps


def test_what_is_trained_is_computed_by_an_attention_that_can_be_derived(tmp_path: Path) -> None:
    subject, seen = small(tmp_path, training={"max_steps": 1}), []
    subject.model.transformer.register_forward_hook(
        lambda *_: seen.append((torch.is_grad_enabled(), torch.backends.cuda.cudnn_sdp_enabled()))
    )
    subject.run()
    assert set(seen) == {(False, False), (False, True), (True, False)}  # anchors, continuations, update


SMALL_BATCHES: dict[str, Any] = {
    "sampling": {"rollout_batch_size": 4},
    "training": {"max_steps": 2},
    "heldout": {"every": 1, "pairs": 8, "final_pairs": 8},
    "checkpoints": {"every": 1},
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str]]]:
    """The directory of a run of small batches, and the steps done and the phase at each forward of the model."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    subject = trainer(directory, **SMALL_BATCHES)
    forwards: list[tuple[int, str]] = []
    subject.model.transformer.register_forward_hook(lambda *_: forwards.append((subject.step, subject.progress.phase)))
    subject.run()
    return directory, forwards


@pytest.mark.parametrize(
    ("done", "phase", "place", "saved"),
    [
        (0, "evaluation", 0.0, 0),
        (0, "rollout", 0.5, 0),
        (0, "update", 1.0, 1),
        (1, "evaluation", 1.0, 1),
        (1, "rollout", 1.0, 1),
        (2, "evaluation", 0.5, 2),
    ],
)
def test_a_run_paused_anywhere_ends_bit_identical(
    done: int, phase: str, place: float, saved: int, uninterrupted: tuple[Path, list[tuple[int, str]]], tmp_path: Path
) -> None:
    """Paused by a wish that comes during a forward of each phase: its first, one in its middle, or its last."""
    straight, forwards = uninterrupted
    within = [number for number, at in enumerate(forwards, start=1) if at == (done, phase)]
    paused = trainer(tmp_path / "paused", **SMALL_BATCHES)
    call(paused, within[round(place * (len(within) - 1))], lambda: ask(tmp_path / "paused", action="pause"))
    with pytest.raises(Paused):
        paused.run()
    paused.pause()
    (end,) = events(tmp_path / "paused", "finished")
    assert (end["outcome"], end["step"]) == ("paused", saved)
    written = events(tmp_path / "paused", "checkpoint")[-1]
    assert written["step"] == saved

    resumed = trainer(tmp_path / "resumed", **SMALL_BATCHES)
    resumed.checkpoints.resume(tmp_path / "paused" / written["directory"])
    resumed.run()

    last = "checkpoints/step-000002"
    assert tensors(tmp_path / "resumed" / last) == tensors(straight / last)
    # Whatever both attempts say of a step, they say alike; together they say what the uninterrupted run says.
    said = metrics(tmp_path / "paused") + metrics(tmp_path / "resumed")
    assert sorted(set(said)) == sorted(set(metrics(straight)))
    groups = {event["step"]: event["groups"] for name in ("paused", "resumed") for event in groups_of(tmp_path / name)}
    assert groups == {event["step"]: event["groups"] for event in groups_of(straight)}
    assert events(tmp_path / "resumed", "finished")[0]["heldout"] == events(straight, "finished")[0]["heldout"]


def groups_of(directory: Path) -> list[dict[str, Any]]:
    return events(directory, "reward_groups")


def test_a_run_resumed_with_more_steps_is_the_longer_run(half: Half, finished: Path, tmp_path: Path) -> None:
    resumed = trainer(tmp_path)
    resumed.checkpoints.resume(half.directory / "checkpoints/step-000002")
    resumed.run()
    one, other = (root / "checkpoints/step-000004" for root in (finished, tmp_path))
    assert tensors(one) == tensors(other)


TWO_THREADS: dict[str, Any] = {
    "sampling": {"steps": 3, "rollout_batch_size": 32},
    "algorithm": {"group_size": 4, "sde_steps": [0, 1], "granularities": [1]},
    "training": {"prompts_per_step": 4},
    "heldout": {"every": 0, "final_pairs": 0, "samples": 0},
}
"""With two threads, batches that both of them share."""


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_a_rollout_on_two_threads_that_was_paused_is_the_same_when_it_is_repeated(tmp_path: Path) -> None:
    straight, paused = (trainer(tmp_path / name, **TWO_THREADS) for name in ("straight", "paused"))
    prompts = straight.prompts.sample(0, 4)
    known, conditioning = (subject.model.encode(prompts) for subject in (straight, paused))
    counted: list[str] = []
    straight.model.transformer.register_forward_hook(lambda *_: counted.append(threading.current_thread().name))
    with threads(2):
        assert batch_size_per_thread(straight.model.device, straight.spec.sampling.rollout_batch_size) == 16
        expected = straight.rollout.sample(prompts, known)
        assert len(set(counted)) > 1
        call(paused, len(counted) - 2, lambda: ask(tmp_path / "paused", action="pause"))
        with pytest.raises(Paused):
            paused.rollout.sample(prompts, conditioning)
        (tmp_path / "paused" / CONTROL_FILE).unlink()
        found = paused.rollout.sample(prompts, conditioning)
    assert torch.equal(found.ends, expected.ends)
    assert expected.anchors is not None and found.anchors is not None
    assert torch.equal(found.anchors, expected.anchors)
    assert torch.equal(found.batch.samples, expected.batch.samples)
    assert torch.equal(found.batch.old_log_probs, expected.batch.old_log_probs)


@pytest.fixture
def two_threads() -> Iterator[None]:
    with threads(2):
        yield


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_on_two_threads_that_was_paused_ends_bit_identical(two_threads: None, tmp_path: Path) -> None:
    """Slow: two threads within an operator wait for each other, which on a busy machine takes minutes."""
    changes = merge(TWO_THREADS, {"training": {"max_steps": 2}, "heldout": {"every": 2, "pairs": 20}})
    straight, paused = (trainer(tmp_path / name, **changes) for name in ("straight", "paused"))
    forwards: list[tuple[int, str]] = []
    straight.model.transformer.register_forward_hook(
        lambda *_: forwards.append((straight.step, straight.progress.phase))
    )
    straight.run()
    second = [number for number, at in enumerate(forwards, start=1) if at == (1, "rollout")]
    call(paused, second[len(second) // 2], lambda: ask(tmp_path / "paused", action="pause"))
    with pytest.raises(Paused):
        paused.run()
    paused.pause()
    saved = events(tmp_path / "paused", "checkpoint")[-1]
    assert saved["step"] == 1

    resumed = trainer(tmp_path / "resumed", **changes)
    resumed.checkpoints.resume(tmp_path / "paused" / saved["directory"])
    resumed.run()

    one, other = (tmp_path / name / "checkpoints/step-000002" for name in ("straight", "resumed"))
    assert tensors(one) == tensors(other)
    said = metrics(tmp_path / "paused") + metrics(tmp_path / "resumed")
    assert sorted(set(said)) == sorted(set(metrics(tmp_path / "straight")))


def test_a_checkpoint_asked_for_comes_after_the_step_and_once(tmp_path: Path) -> None:
    subject = small(tmp_path, training={"max_steps": 2})
    ask(tmp_path, action="checkpoint", request=3)
    subject.run()
    saved = [(event["step"], event["request"]) for event in events(tmp_path, "checkpoint")]
    assert saved == [(0, 3), (2, 3)]
    assert read_manifest(tmp_path / "checkpoints/step-000000").step == 0


def test_starting_from_a_checkpoint_takes_its_policy(finished: Path, tmp_path: Path) -> None:
    subject = trainer(tmp_path, training={"max_steps": 1}, heldout={"samples": 0})
    subject.checkpoints.start_from(finished / "checkpoints/step-000004")
    subject.run()
    start = [row[1:] for row in metrics(tmp_path, "^heldout/") if row[0] == 0]
    end = [row[1:] for row in metrics(finished, "^heldout/") if row[0] == 4]
    assert start == end


def test_continuing_from_the_last_step_ends_with_the_summary_and_counts_nothing_twice(
    finished: Path, tmp_path: Path
) -> None:
    subject = trainer(tmp_path)
    subject.checkpoints.resume(finished / "checkpoints/step-000004")
    subject.run()
    assert events(tmp_path, "finished")[0]["heldout"] == events(finished, "finished")[0]["heldout"]
    assert events(tmp_path, "sample") == []
    assert newest(tmp_path).items() <= newest(finished).items()
    assert len(events(tmp_path, "metrics")) == 1  # the totals, as they were


def test_continuing_from_the_last_step_says_how_far_the_run_is(tmp_path: Path) -> None:
    changes = {"training": {"max_steps": 1}}
    small(tmp_path / "first", **changes).run()
    subject = small(tmp_path / "second", **changes)
    subject.checkpoints.resume(tmp_path / "first/checkpoints/step-000001")
    subject.run()
    assert events(tmp_path / "second", "progress")[-1]["step"] == 1


def test_a_start_of_another_alpha_is_refused(finished: Path, tmp_path: Path) -> None:
    subject = trainer(tmp_path, training={"lora_alpha": 32})
    with pytest.raises(ValueError, match=r"alpha 16.0.*alpha 32.0"):
        subject.checkpoints.start_from(finished / "checkpoints/step-000004")


@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_in_bfloat16_every_ratio_is_one_and_the_policy_moves(adapter: str, checkpointing: bool, tmp_path: Path) -> None:
    training = {
        "adapter": adapter,
        "max_steps": 1,
        "precision": "bfloat16",
        "gradient_checkpointing": checkpointing,
        "learning_rate": 1e-3,
    }
    subject = small(tmp_path, training=training, algorithm={"granularities": [3]})
    before = [parameter.clone() for parameter in subject.optimizer.parameters]
    subject.run()
    assert all(abs(value - 1) <= 1e-5 for _, _, value in metrics(tmp_path, r"^ratio/(min|max)$"))
    assert {parameter.dtype for parameter in subject.optimizer.parameters} == {torch.float32}
    assert any(not torch.equal(a, b) for a, b in zip(before, subject.optimizer.parameters, strict=True))


def test_the_rate_warms_up(tmp_path: Path) -> None:
    training = {"max_steps": 3, "warmup_steps": 2, "learning_rate": 1e-3}
    small(tmp_path, training=training).run()
    assert [value for _, _, value in metrics(tmp_path, "^learning_rate$")] == pytest.approx([5e-4, 1e-3, 1e-3])


class Broken(Reward):
    """A reward whose server is down."""

    @classmethod
    def load(cls, entry: RewardEntry, device: torch.device) -> "Broken":
        return cls()

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        raise ConnectionError("the reward server does not answer")


LITTLE = {"every": 2, "pairs": 2, "final_pairs": 2, "samples": 0}


def test_a_failing_reward_is_missing_and_counted_and_the_run_goes_on(tmp_path: Path) -> None:
    subject = small(tmp_path, training={"max_steps": 2, "max_missing_rewards": 1.0}, heldout=LITTLE)
    subject.scorer.rewards["shapes_verifier"] = Broken()
    subject.run()
    failures = [value for _, name, value in metrics(tmp_path) if name == "failures/shapes_verifier"]
    assert failures == [2 * 2 * 2 * 2] * 2
    (last,) = events(tmp_path, "finished")
    assert set(last["heldout"]) == {"clip_score"}


def test_a_reward_that_fails_too_often_in_a_row_pauses_the_run_before_it_is_trained_on(tmp_path: Path) -> None:
    training = {"max_steps": 2, "max_missing_steps": 2}
    subject = small(tmp_path, training=training)
    subject.scorer.rewards["shapes_verifier"] = Broken()
    with pytest.raises(
        RewardsUnavailable, match="'shapes_verifier' failed on 16 of 16 images, the last of 2 steps"
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


def test_when_every_reward_fails_the_run_fails_with_the_cause(tmp_path: Path) -> None:
    subject = small(tmp_path, heldout=LITTLE)
    subject.scorer.rewards = {name: Broken() for name in subject.scorer.rewards}
    with pytest.raises(RewardsFailed, match="the reward server does not answer") as failure:
        subject.run()
    assert classify(failure.value).code == "rewards_failed"


def test_a_model_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    subject = small(tmp_path)
    with torch.no_grad():
        subject.optimizer.parameters[0].fill_(torch.nan)
    with pytest.raises(NotFinite, match="3 updates in a row"):
        subject.run()


def test_a_skipped_update_leaves_the_policy_and_is_counted(tmp_path: Path) -> None:
    subject = trainer(tmp_path)
    before = [parameter.clone() for parameter in subject.optimizer.parameters]
    subject.optimizer.step(1, rate=1.0, norm=float("nan"))
    assert all(torch.equal(a, b) for a, b in zip(before, subject.optimizer.parameters, strict=True))
    subject.optimizer.step(1, rate=1.0, norm=float("inf"))
    with pytest.raises(NotFinite, match="3 updates in a row"):
        subject.optimizer.step(1, rate=1.0, norm=float("nan"))


def test_a_cancelled_run_stops_between_batches(tmp_path: Path) -> None:
    subject = trainer(tmp_path, sampling={"rollout_batch_size": 4}, heldout={"every": 0})
    prompts = subject.prompts.sample(0, 3)

    def cancel_in_the_rollout(*_: object) -> None:
        (tmp_path / CONTROL_FILE).write_text('{"action": "cancel"}')

    hook = subject.model.transformer.register_forward_hook(cancel_in_the_rollout)
    with pytest.raises(Cancelled):
        subject.rollout.sample(prompts, subject.model.encode(prompts))
    hook.remove()
    assert not events(tmp_path, "metrics")


def test_an_image_that_is_not_finite_scores_nothing(tmp_path: Path) -> None:
    subject = trainer(tmp_path)
    prompts = subject.prompts.sample(0, 4)
    latents = torch.zeros(4, 16, 32)
    latents[1] = torch.nan
    values = subject.scorer.score(latents, prompts, ["clip_score", "shapes_verifier"])
    assert values[:, 1].isnan().all()
    assert values[:, [0, 2, 3]].isfinite().all()


def run_program(directory: Path, request: dict[str, Any], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and last event of the program, started as a researcher would."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "request.json").write_text(json.dumps(request))
    code = main([str(directory / "request.json"), "--out", str(directory / "out"), "--device", "cpu", *arguments])
    last = (directory / "out/events.jsonl").read_text().splitlines()[-1]
    return code, json.loads(last)


def test_the_program_needs_no_server(tmp_path: Path) -> None:
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
def test_what_is_wrong_with_a_spec_is_the_last_event(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    code, last = run_program(tmp_path, merge(MINIATURE, changes))
    assert (code, last["type"], last["code"]) == (1, "failed", "bad_config")
    assert message in last["detail"]


def test_one_bad_prompt_among_many_is_found_before_the_first_step(tmp_path: Path) -> None:
    prompts = [*train_prompts()[:50], "a small red dinosaur on white"]
    code, last = run_program(tmp_path, merge(MINIATURE, {"prompts": {"items": prompts}}))
    assert (code, last["code"]) == (1, "bad_config")
    assert not events(tmp_path / "out", "metrics", "started")


def test_a_directory_that_holds_a_run_is_not_written_over(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text("{}")
    before = (finished / "events.jsonl").read_bytes()
    assert main([str(tmp_path / "request.json"), "--out", str(finished)]) == 2
    assert (finished / "events.jsonl").read_bytes() == before


def test_a_damaged_checkpoint_is_no_start(finished: Path, tmp_path: Path) -> None:
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
            # The next optimizer state does not fit into 300 KiB, the events do.
            resource.setrlimit(resource.RLIMIT_FSIZE, (300 * 1024, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return torch.zeros(len(images))


@pytest.fixture
def file_sizes() -> Iterator[None]:
    """As large as before once the test has ended."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_last_checkpoint_whole_and_says_so(
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
