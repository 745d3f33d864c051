"""Complete training runs on the bundled model: events, metrics and updated weights."""

import hashlib
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from service.contracts.catalog import load_catalog
from service.contracts.plan import make_plan
from tests.worker.engine.training.miniature import HalfRun, events, metrics, newest, small, spec, trainer
from worker.engine.training.checkpoint import read_manifest

pytestmark = pytest.mark.long
TWO_REWARDS = {"clip_score", "shapes_verifier"}


def test_finished_run_summarizes_all_pairs(finished: Path) -> None:
    (last,) = events(finished, "finished")
    assert last["outcome"] == "succeeded"
    assert set(last["heldout"]) == {"clip_score", "shapes_verifier"}
    for row in last["heldout"].values():
        assert row["pairs"] == 8
        assert row["difference"] == pytest.approx(row["after"] - row["before"], abs=1e-9)
        assert row["interval95"][0] <= row["difference"] <= row["interval95"][1]


def test_each_step_logs_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "worker.engine.training.metrics_logger"):
        trainer(tmp_path, training={"max_steps": 1}).run()
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("metrics_logger")]
    assert [re.findall(r"([\w/]+)=", line) for line in lines if "reward/" in line] == [
        [
            *("reward/clip_score", "reward/shapes_verifier", "anchor/clip_score", "anchor/shapes_verifier"),
            *("grad_norm", "learning_rate", "seconds", "nfe"),
        ]
    ]
    assert any(re.match(r"step 0: heldout/clip_score=0\.\d+ .*seconds=\d\S* nfe=\d+$", line) for line in lines)


def test_nfe_equals_the_plan(finished: Path) -> None:
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


def test_ratio_differs_from_one_after_a_weight_change(tmp_path: Path) -> None:
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


def test_images_are_stored_with_their_rewards(finished: Path) -> None:
    samples = events(finished, "sample")
    assert [s["step"] for s in samples if s["kind"] == "heldout"] == [0, 0, 2, 2, 4, 4]
    assert {s["step"] for s in samples if s["kind"] == "best"} == {2, 4}
    for sample in samples:
        assert (finished / sample["file"]).stat().st_size == sample["size"]
    pairs = {}
    for sample in samples:
        if sample["kind"] in ("best", "worst"):
            pairs.setdefault((sample["step"], sample["index"]), {})[sample["kind"]] = sum(sample["rewards"].values())
    assert all(pair["best"] > pair["worst"] for pair in pairs.values())


def group_images(directory: Path, step: int) -> list[dict[str, Any]]:
    """Return the recorded images of the groups of a step's first prompt, in order."""
    return [s for s in events(directory, "sample") if s["kind"] == "group" and s["step"] == step]


def test_images_of_the_first_prompts_groups_have_the_recorded_rewards(finished: Path) -> None:
    recorded = {event["step"]: event["groups"] for event in events(finished, "reward_groups")}
    for step in (2, 4):
        images = group_images(finished, step)
        assert [image["index"] for image in images] == list(range(2 * 2 * 3))  # SDE steps, granularities, group size
        for image in images:
            groups = [
                group
                for group in recorded[step]
                if group["prompt_index"] == 0
                and (group["sde_step"], group["granularity"]) == (image["sde_step"], image["granularity"])
            ]
            assert image["rewards"] == {group["reward"]: group["values"][image["index"] % 3] for group in groups}


def test_images_of_groups_are_limited_to_whole_groups_within_the_disk_limit(finished: Path, tmp_path: Path) -> None:
    sizes = [image["size"] for image in group_images(finished, 2)]
    limit = sum(sizes[: 2 * 3]) + sizes[2 * 3]  # two groups and an image of the third
    heldout = {"group_images_mib": limit / 2**20, "final_pairs": 4}
    trainer(tmp_path, training={"max_steps": 2}, heldout=heldout).run()
    assert [image["size"] for image in group_images(tmp_path, 2)] == sizes[: 2 * 3]


def test_each_phase_is_reported_and_each_part_measured(finished: Path) -> None:
    steps = ["rollout", "reward", "update"]
    evaluated = ["evaluation", "checkpoint"]
    phases = [event["phase"] for event in events(finished, "progress")]
    assert phases == ["evaluation", *steps, *steps, *evaluated, *steps, *steps, *evaluated]
    begin, *_, end = (datetime.fromisoformat(event["time"]) for event in events(finished, "progress", "metrics"))
    elapsed = events(finished, "metrics")[-1]["values"]["elapsed/seconds"]
    assert 0 < elapsed < (end - begin).total_seconds()  # only the steps, each once
    names = {name for event in events(finished, "metrics") if event["step"] == 1 for name in event["values"]}
    of_rewards = {f"{kind}/{name}" for kind in ("reward", "anchor", "spread", "failures") for name in TWO_REWARDS}
    parts = {"anchor", "branch", "continuation", "decode", "reward", "update"}
    assert names - {f"{kind}/heldout_decode" for kind in ("seconds", "memory")} == (
        of_rewards
        | {f"{kind}/{part}" for kind in ("seconds", "memory") for part in parts}
        | {f"nfe/{part}" for part in ("anchor", "continuation", "update", "total")}
        | {f"ratio/{kind}" for kind in ("min", "mean", "max", "first_deviation")}
        | {"advantage/abs_mean", "zero_std_fraction", "clip_fraction", "grad_norm", "learning_rate", "loss"}
        | {"skipped_updates", "elapsed/nfe", "elapsed/seconds", "images/total", "memory/peak_bytes"}
    )


def test_a_checkpoint_has_the_state_of_each_part(finished: Path) -> None:
    state = json.loads((finished / "checkpoints/step-000004/state.json").read_text())
    assert state.keys() == {
        "progress",
        "cost",
        "optimizer",
        "evaluator",
        "early_stopping",
        "reward_failures",
        "process",
    }
    assert state["progress"]["step"] == 4


def test_saving_a_checkpoint_leaves_no_file_open(tmp_path: Path) -> None:
    subject = small(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    subject.checkpoints.save(None)
    assert read_manifest(tmp_path / "checkpoints/step-000000").step == 0
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_points_of_the_curves_are_over_the_first_pairs(tmp_path: Path) -> None:
    subject = trainer(tmp_path)
    values = torch.tensor([[1.0, 2.0, torch.nan, 3.0, 100.0], [0.0, 0.0, 0.0, 4.0, 100.0]])
    assert subject.evaluator.metrics(values) == {"heldout/clip_score": 2.0, "heldout/shapes_verifier": 1.0}


def test_best_and_worst_images_are_of_the_widest_group(finished: Path) -> None:
    weights = {reward.name: reward.weight for reward in spec().rewards}
    assert weights.keys() == TWO_REWARDS
    for event in events(finished, "reward_groups"):
        totals: dict[int, dict[tuple[int, int], list[float]]] = {}
        for group in event["groups"]:
            place = (group["sde_step"], group["granularity"])
            known = totals.setdefault(group["prompt_index"], {}).setdefault(place, [0.0] * 3)
            known[:] = [a + weights[group["reward"]] * b for a, b in zip(known, group["values"], strict=True)]
        for sample in events(finished, "sample"):
            if sample["step"] == event["step"] and sample["kind"] in ("best", "worst"):
                own = totals[sample["index"]]
                values = own[sample["sde_step"], sample["granularity"]]
                assert max(values) - min(values) == pytest.approx(max(max(each) - min(each) for each in own.values()))
                total = sum(weights[name] * value for name, value in sample["rewards"].items())
                assert total == pytest.approx(max(values) if sample["kind"] == "best" else min(values))
                image = (finished / sample["file"]).read_bytes()
                assert hashlib.sha256(image).hexdigest() == sample["sha256"]
    images = [sample["sha256"] for sample in events(finished, "sample") if sample["kind"] in ("best", "worst")]
    assert len(images) == len(set(images)) == 8


def test_training_changes_only_the_lora(half: HalfRun) -> None:
    assert half.changed and half.unchanged
    assert all("lora_" in name for name in half.changed)
    assert all("lora_" not in name for name in half.unchanged)


def test_same_spec_gives_the_same_metrics(half: HalfRun, finished: Path) -> None:
    """Events before the end of the shorter run, whose final evaluation the longer run does not have."""
    recorded, known = newest(half.directory), newest(finished)
    common = {key for key in known if key[0] < 2}
    assert {step for step, _ in common} == {0, 1}
    assert {key: recorded[key] for key in common} == {key: known[key] for key in common}
    assert metrics(half.directory, "^(reward|ratio|loss|grad_norm)") == [
        row for row in metrics(finished, "^(reward|ratio|loss|grad_norm)") if row[0] <= 2
    ]


def test_full_fine_tuning_changes_every_weight(tmp_path: Path) -> None:
    subject = small(tmp_path, training={"adapter": "full", "max_steps": 1, "learning_rate": 1e-5})
    before = [parameter.clone() for parameter in subject.optimizer.parameters]
    subject.run()
    moved = [not torch.equal(a, b) for a, b in zip(before, subject.optimizer.parameters, strict=True)]
    assert sum(moved) / len(moved) > 0.9
    assert read_manifest(tmp_path / "checkpoints/step-000001").kind == "full"


def test_long_update_reports_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engine.training.progress.PROGRESS_SECONDS", 0.0)
    small(tmp_path, training={"max_steps": 1, "update_batch_size": 1}).run()
    recorded = [event for event in events(tmp_path, "progress") if event["phase"] == "update"]
    assert len(recorded) == 1 + 2 * 2  # at the start, and after each of two prompts' two steps


def test_update_disables_cudnn_attention(tmp_path: Path) -> None:
    subject, seen = small(tmp_path, training={"max_steps": 1}), []
    subject.model.transformer.register_forward_hook(
        lambda *_: seen.append((torch.is_grad_enabled(), torch.backends.cuda.cudnn_sdp_enabled()))
    )
    subject.run()
    assert set(seen) == {(False, False), (False, True), (True, False)}  # anchors, continuations, update


@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_bfloat16_ratios_are_one_and_the_policy_changes(adapter: str, checkpointing: bool, tmp_path: Path) -> None:
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


def test_learning_rate_warms_up(tmp_path: Path) -> None:
    training = {"max_steps": 3, "warmup_steps": 2, "learning_rate": 1e-3}
    small(tmp_path, training=training).run()
    assert [value for _, _, value in metrics(tmp_path, "^learning_rate$")] == pytest.approx([5e-4, 1e-3, 1e-3])


def test_nonfinite_image_has_no_rewards(tmp_path: Path) -> None:
    subject = trainer(tmp_path)
    prompts = subject.prompts.sample(0, 4)
    latents = torch.zeros(4, 16, 32)
    latents[1] = torch.nan
    values = subject.scorer.score(latents, prompts, ["clip_score", "shapes_verifier"])
    assert values[:, 1].isnan().all()
    assert values[:, [0, 2, 3]].isfinite().all()
