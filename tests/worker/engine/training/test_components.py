"""Parts of a training run on their own: its meter, progress, prompts, groups and comparison."""

import math
import os
import time
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch

from service.contracts.catalog import Catalog, PromptSetEntry, load_catalog
from service.contracts.runs import PromptSource
from tests.worker.engine.training.miniature import events
from worker.engine.heartbeat import PROGRESS_SECONDS
from worker.engine.training.cost_meter import CostMeter
from worker.engine.training.distributed import Distributed
from worker.engine.training.event_log import EventWriter
from worker.engine.training.heldout_evaluator import compare_pairs
from worker.engine.training.metrics_logger import best_and_worst, widest_groups
from worker.engine.training.progress import ProgressReporter
from worker.engine.training.prompt_sampler import PromptSampler, load_prompt_set, load_prompts
from worker.shapes.bench import caption_sampling as bench
from worker.shapes.caption_sampling import heldout_prompts, train_prompts

NAN = math.nan


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the standard library's clocks show; a test changes them."""
    now = [0.0]
    for name in ("perf_counter", "monotonic"):
        monkeypatch.setattr(time, name, lambda: now[0])
    return now


class TestCostMeter:
    def test_parts_that_are_active_together_share_the_time(self, clock: list[float]) -> None:
        meter = CostMeter(Distributed(torch.device("cpu")))
        clock[0] = 5.0
        with meter.part("outer"):
            clock[0] = 6.0
            with meter.part("inner"):
                clock[0] = 8.0
            clock[0] = 11.0
        clock[0] = 20.0
        taken = meter.take()
        assert (taken["seconds/outer"], taken["seconds/inner"]) == (1 + 1 + 3, 1)
        assert taken["memory/peak_bytes"] == max(taken["memory/outer"], taken["memory/inner"]) > 1e6
        with meter.part("later"):
            clock[0] = 22.0
        assert {name for name in meter.take() if "/total" not in name} == {
            "seconds/later",
            "memory/later",
            "memory/peak_bytes",
        }

    def test_on_a_gpu_a_part_has_its_own_peak_of_allocations(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[str] = []
        monkeypatch.setattr(torch.cuda, "synchronize", lambda _: calls.append("synchronize"))
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: calls.append("reset"))
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 7)
        meter = CostMeter(Distributed(torch.device("cuda")))
        with meter.part("update"):
            assert calls == ["synchronize", "reset"]
        assert calls == ["synchronize", "reset", "synchronize"]
        assert meter.take()["memory/update"] == 7

    def test_only_rollouts_count_as_the_cost_of_training(self) -> None:
        meter = CostMeter(Distributed(torch.device("cpu")), passes=2)
        for number, part in enumerate(["anchor", "branch", "continuation", "update", "reference", "heldout"]):
            meter.count(part, 10**number)
        meter.count_images(3)
        assert (meter.total_nfe, meter.training_nfe, meter.total_images) == (222_222, 222, 3)
        assert meter.totals() == {"nfe/total": 222_222, "images/total": 3}
        assert meter.take()["nfe/branch"] == 20
        assert "nfe/branch" not in meter.take()
        resumed, other = (CostMeter(Distributed(torch.device("cpu"), rank, 2)) for rank in range(2))
        for each in (resumed, other):
            each.load_state_dict(meter.state_dict())
        assert (resumed.total_nfe, resumed.training_nfe, resumed.total_images) == (222_222, 222, 3)
        assert (other.total_nfe, other.training_nfe, other.total_images) == (0, 0, 0)


class TestProgress:
    def test_remaining_time_is_the_median_of_the_last_twenty_steps(self, clock: list[float], tmp_path: Path) -> None:
        progress = ProgressReporter(EventWriter(tmp_path), 30)
        progress.report("loading")
        durations = [100.0 - number for number in range(23)]
        for seconds in durations:
            clock[0] += 1000.0  # between two steps
            progress.start_step()
            clock[0] += seconds
            progress.finish_step()
        progress.report("rollout")
        first, last = events(tmp_path, "progress")
        assert (first["step"], first["eta_seconds"], first["step_seconds"]) == (0, None, None)
        assert (last["step"], last["max_steps"], last["phase"]) == (23, 30, "rollout")
        assert last["step_seconds"] == median(durations[-20:])
        assert last["eta_seconds"] == 7 * last["step_seconds"]
        assert progress.elapsed_seconds == sum(durations)
        resumed = ProgressReporter(EventWriter(tmp_path), 30)
        resumed.load_state_dict(progress.state_dict())
        assert (resumed.step, resumed.elapsed_seconds) == (23, sum(durations))

    def test_check_repeats_the_phase_when_the_last_report_is_old(self, clock: list[float], tmp_path: Path) -> None:
        clock[0] = PROGRESS_SECONDS
        progress = ProgressReporter(EventWriter(tmp_path), 30)
        progress.check()  # nothing was ever reported
        progress.report("reward")
        clock[0] += 0.9 * PROGRESS_SECONDS
        progress.check()
        assert [event["phase"] for event in events(tmp_path, "progress")] == ["loading", "reward"]
        clock[0] += 0.1 * PROGRESS_SECONDS
        progress.check()
        progress.check()
        assert [event["phase"] for event in events(tmp_path, "progress")] == ["loading", "reward", "reward"]

    def test_closed_events_are_on_the_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: list[Path] = []
        monkeypatch.setattr(os, "fsync", lambda file: synced.append(Path(f"/proc/self/fd/{file}").resolve()))
        writer = EventWriter(tmp_path)
        writer.close()
        assert synced == [tmp_path / "events.jsonl"]


class TestPrompts:
    def test_each_epoch_has_every_prompt_in_another_order(self) -> None:
        prompts = tuple("abcdefg")
        sampler = PromptSampler(prompts, 1)
        drawn = [prompt for step in range(7) for prompt in sampler.sample(step, 3)]
        epochs = [drawn[start : start + 7] for start in range(0, 21, 7)]
        assert [sorted(epoch) for epoch in epochs] == [list(prompts)] * 3
        assert len({tuple(epoch) for epoch in epochs}) == 3
        assert PromptSampler(prompts, 1).sample(4, 3) == drawn[12:15]  # from any step
        assert [p for step in range(7) for p in PromptSampler(prompts, 2).sample(step, 3)] != drawn

    def test_prompts_to_encode_in_advance_are_those_of_the_shard_in_the_next_steps(self) -> None:
        sampler = PromptSampler(tuple(map(str, range(1000))), 1)
        shard = range(1, 4)
        later = [prompt for step in range(6, 5 + 1 + 86) for prompt in sampler.sample(step, 5)[1:4]]
        assert len(later) == 258  # the first number from 256 on that is of whole steps
        assert sampler.upcoming(5, 5, shard, max_steps=1000) == later
        assert sampler.upcoming(5, 5, shard, max_steps=8) == later[:6]
        assert sampler.upcoming(7, 5, shard, max_steps=8) == []

    @pytest.mark.parametrize("split", ["train", "heldout"])
    def test_bundled_sets_have_their_splits(self, split: str) -> None:
        entry = {"name": "x", "split": split, "description": "x"}
        parts = {"train": (train_prompts, bench.train_prompts), "heldout": (heldout_prompts, bench.heldout_prompts)}
        for kind, expected in zip(("shapes", "shapes_bench"), parts[split], strict=True):
            assert load_prompt_set(PromptSetEntry.model_validate({**entry, "kind": kind})) == expected()

    def test_set_is_read_from_its_file_or_the_catalog(self, tmp_path: Path) -> None:
        catalog: Catalog = load_catalog()
        (tmp_path / "mine.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
        files = {"mine": tmp_path / "mine.jsonl"}
        assert load_prompts(PromptSource(set="mine"), catalog, files) == ("a", "b")
        [name, *_] = [entry.name for entry in catalog.prompt_sets if entry.kind == "shapes"]
        assert load_prompts(PromptSource(set=name), catalog, files) == load_prompt_set(catalog.prompt_set(name))
        assert load_prompts(PromptSource(items=("b", "a", "b")), catalog, files) == ("b", "a")

    def test_lines_of_a_file_are_distinct_prompts(self, tmp_path: Path) -> None:
        (tmp_path / "p.txt").write_text(" a\n\nb \na\n")
        entry = {"name": "x", "kind": "file", "description": "x", "path": tmp_path / "p.txt"}
        assert load_prompt_set(PromptSetEntry.model_validate(entry)) == ("a", "b")


def test_widest_group_of_a_prompt_ignores_missing_values() -> None:
    totals = torch.zeros(3, 2, 3, 2)  # prompts, SDE steps, group, granularities
    totals[0, 1, :, 0] = torch.tensor([0.0, 2.0, 1.0])
    totals[0, 0, :, 0] = 10.0
    totals[0, 0, :, 1] = torch.tensor([0.5, NAN, -1.0])
    totals[1, 0, :, 1] = NAN  # the only group that is not alike has no values
    totals[2, 0, :, 1] = torch.tensor([NAN, 5.0, 4.0])
    assert widest_groups(totals) == [(1, 0), None, (0, 1)]
    assert best_and_worst(torch.tensor([NAN, 2.0, -1.0, 0.0])) == [1, 2]
    assert best_and_worst(torch.tensor([1.0, 3.0, NAN])) == [1, 0]


def test_interval_is_of_ten_thousand_seeded_resamples_of_the_pairs() -> None:
    before, after = np.random.default_rng(1).normal(size=(2, 20))
    generator = np.random.default_rng(0)
    means = [(after - before)[generator.integers(0, 20, 20)].mean() for _ in range(10_000)]
    summary = compare_pairs(before, after)
    assert summary.interval95 == tuple(np.quantile(means, [0.025, 0.975]))
    assert (summary.before, summary.after, summary.pairs) == (before.mean(), after.mean(), 20)
    assert summary.difference == pytest.approx(after.mean() - before.mean())
