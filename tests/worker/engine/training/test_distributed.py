"""Several processes give the results of one process, and start, stop and fail together."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from service.contracts.attempt_files import CONTROL_FILE
from service.contracts.presets import merge
from tests.worker.engine.models.tiny import PROMPTS, make
from tests.worker.engine.training.in_double import MODEL, perform
from tests.worker.engine.training.miniature import FEW_PROMPTS
from worker.engine.training.checkpoint import read_manifest
from worker.engine.training.distributed import Distributed

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),  # two processes load torch, and the machine may be busy
]
Eventually = Callable[[Callable[[], object]], None]

SMALL: dict[str, Any] = {
    "sampling": {"steps": 4, "rollout_batch_size": 8},
    "algorithm": {"group_size": 3},
    "training": {"max_steps": 2, "prompts_per_step": 4, "update_batch_size": 3, "lora_rank": 4, "learning_rate": 1e-4},
    "heldout": {"every": 1, "pairs": 5, "final_pairs": 7, "samples": 4},
    "checkpoints": {"every": 1},
}
TINY: dict[str, Any] = {
    "model": MODEL,
    "sampling": {"width": 32, "height": 16, "guidance": 3.5},
    "rewards": [{"name": "redness"}],
    "prompts": {"items": PROMPTS},
}
CASES: dict[str, dict[str, Any]] = {
    "g2rpo": {"algorithm": {"name": "g2rpo", "sde_steps": [0, 2], "updates_per_rollout": 2}},
    "g2rpo-full": {
        "algorithm": {"name": "g2rpo", "sde_steps": [1], "granularities": [1, 2]},
        "training": {"adapter": "full", "ema_decay": 0.5},
    },
    "dance": {"algorithm": {"name": "dance_grpo", "updates_per_rollout": 2, "same_noise": True}},
    "mix": {
        "algorithm": {
            "name": "mix_grpo",
            "window": {"size": 2, "every": 1},
            "updates_per_rollout": 3,
        }
    },
    "flow": {
        "algorithm": {"name": "flow_grpo", "advantage": {"std": "batch"}, "kl_weight": 0.1},
        "training": {"ema_decay": 0.9},
    },
}
RESUMED = ("g2rpo", "g2rpo-full")
LONG: dict[str, Any] = {
    "sampling": {"steps": 3},
    "algorithm": {"group_size": 2, "sde_steps": [0, 1], "granularities": [1]},
    "rewards": [{"name": "clip_score"}],
    "prompts": FEW_PROMPTS,
    "training": {"max_steps": 100_000, "prompts_per_step": 2, "update_batch_size": 1},
    "heldout": {"every": 0, "final_pairs": 0, "samples": 0},
    "checkpoints": {"every": 0},
}
REAL: dict[str, dict[str, Any]] = {
    "paused-lora": {"training": {"adapter": "lora"}},
    "paused-full": {"training": {"adapter": "full"}},
    "cancelled": {},
    "bfloat16": {
        "sampling": {"rollout_batch_size": 64},
        "algorithm": {"group_size": 8},
        "training": {
            "adapter": "full",
            "precision": "bfloat16",
            "gradient_checkpointing": True,
            "max_steps": 1,
            "prompts_per_step": 4,
        },
    },
    "wrong": {"prompts": {"items": ["a small red dinosaur on white"]}},
}
"""Runs of the real program, in sequence in the same two processes. The last run ends the processes."""


def spec(case: str) -> dict[str, Any]:
    return merge(merge(SMALL, TINY), CASES[case])


def start(directory: Path, count: int, *program: str) -> "subprocess.Popen[bytes]":
    """Several ranks of a program, with their output in `log.txt`."""
    command = [sys.executable, "-m", "worker.entrypoints.launcher", str(count), str(directory), sys.executable, "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "log.txt").open("wb") as log:
        return subprocess.Popen([*command, *program], env=environment, stdout=log, stderr=log)


def real(directory: Path, changes: dict[str, Any]) -> list[str]:
    """The real program's arguments for a run that writes to `directory`."""
    directory.mkdir(parents=True)
    (directory / "given.json").write_text(json.dumps(merge(merge(SMALL, LONG), changes)))
    return [str(directory / "given.json"), "--out", str(directory), "--device", "cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, eventually: Eventually) -> Path:
    """Every case with one process and with two, and some cases resumed from the other's first checkpoint.

    Then the runs of the real program in the same two processes, with their control requests.
    """
    root = tmp_path_factory.mktemp("runs")
    model = root / "model"
    make(MODEL, model)
    for case in CASES:
        perform(model, root / "one" / case, spec(case), Distributed(torch.device("cpu")))
    cases = [{"directory": str(root / "two" / case), "spec": spec(case)} for case in CASES]
    for case in RESUMED:
        first = str(root / "one" / case / "checkpoints/step-000001")
        cases.append({"directory": str(root / "one-then-two" / case), "spec": spec(case), "resume": first})
    jobs: list[dict[str, Any]] = [{"model": str(model), "cases": cases}]
    for name, changes in REAL.items():
        threads = 2 if name == "bfloat16" else 1
        jobs.append({"arguments": real(root / "real" / name, changes), "threads": threads})
    (root / "jobs.json").write_text(json.dumps(jobs))
    process = start(root / "real/wrong", 2, "tests.worker.engine.training.in_turn", str(root / "jobs.json"))
    try:
        for case in cases:  # in sequence, because all of them together exceed the timeout of one wait
            out = Path(case["directory"])
            eventually(lambda out=out: said(out, "finished") or process.poll() is not None)
        ask_real_runs(root / "real", process, eventually)
        code = process.wait()
    finally:
        process.kill()
    assert code == 1, (root / "real/wrong/log.txt").read_text()
    for case in RESUMED:
        first = str(root / "two" / case / "checkpoints/step-000001")
        perform(model, root / "two-then-one" / case, spec(case), Distributed(torch.device("cpu")), first)
    return root


def ask_real_runs(place: Path, process: "subprocess.Popen[bytes]", eventually: Eventually) -> None:
    """For each run that does not end automatically, write the request that ends it."""
    for name in ("paused-lora", "paused-full", "cancelled"):
        out = place / name
        eventually(lambda out=out: said(out, "metrics") or process.poll() is not None)
        if name == "cancelled":
            ask(out, action="cancel")
        else:
            ask(out, action="checkpoint", request=1)
            eventually(lambda out=out: said(out, "checkpoint") or process.poll() is not None)
            ask(out, action="pause", request=1)


def said(out: Path, type: str) -> list[dict[str, Any]]:
    return events(out, type) if (out / "events.jsonl").exists() else []


def ask(out: Path, **control: Any) -> None:
    (out / "control.new").write_text(json.dumps(control))
    (out / "control.new").rename(out / CONTROL_FILE)


def events(directory: Path, *types: str) -> list[dict[str, Any]]:
    written = (directory / "events.jsonl").read_text(encoding="utf-8")
    lines = written.rpartition("\n")[0].splitlines()  # the process may be writing the last line
    return [event for event in map(json.loads, lines) if event["type"] in types]


def assert_same_checkpoint(one: Path, other: Path) -> None:
    assert {file.name for file in read_manifest(one).files} == {file.name for file in read_manifest(other).files}
    for path in one.rglob("*.safetensors"):
        tensors, others = load_file(path), load_file(other / path.relative_to(one))
        assert tensors.keys() == others.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(others[name], tensor, rtol=0, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
    states = [json.loads((place / "state.json").read_text()) for place in (one, other)]
    assert states[0]["cost"] == states[1]["cost"]
    assert states[0]["progress"]["step"] == states[1]["progress"]["step"]
    assert states[0]["evaluator"]["due"] == states[1]["evaluator"]["due"]


@pytest.mark.parametrize("case", CASES)
class TestEqualResults:
    def test_weights_and_optimizer(self, case: str, runs: Path) -> None:
        for step in (1, 2):
            places = [runs / number / case / f"checkpoints/step-{step:06d}" for number in ("one", "two")]
            assert_same_checkpoint(*places)

    def test_policy_moved(self, case: str, runs: Path) -> None:
        first, last = (runs / "two" / case / f"checkpoints/step-00000{step}" for step in (1, 2))
        weights = next(path for path in first.rglob("*.safetensors") if "optimizer" not in path.name)
        before, after = load_file(weights), load_file(last / weights.relative_to(first))
        assert max((after[name] - before[name]).abs().max().item() for name in before) > 1e-6

    def test_reward_groups(self, case: str, runs: Path) -> None:
        one, two = (events(runs / number / case, "reward_groups") for number in ("one", "two"))
        assert len(one) == len(two) == 2
        for ours, theirs in zip(one, two, strict=True):
            for group, other in zip(ours["groups"], theirs["groups"], strict=True):
                assert other.pop("values") == pytest.approx(group.pop("values"), abs=1e-10)
                assert other == group

    def test_metrics(self, case: str, runs: Path) -> None:
        one, two = (events(runs / number / case, "metrics") for number in ("one", "two"))
        for ours, theirs in zip(one, two, strict=True):
            assert ours["step"] == theirs["step"]
            for name, value in ours["values"].items():
                if not name.startswith(("seconds/", "elapsed/seconds", "memory/")):
                    assert theirs["values"].pop(name) == pytest.approx(value, abs=1e-9), name

    def test_images(self, case: str, runs: Path) -> None:
        reported = [
            [
                (e["step"], e["kind"], e["index"], e["prompt"], e["sha256"])
                for e in events(runs / number / case, "sample")
            ]
            for number in ("one", "two")
        ]
        assert reported[0] == reported[1]

    def test_summary(self, case: str, runs: Path) -> None:
        [one], [two] = (events(runs / number / case, "finished") for number in ("one", "two"))
        assert one["heldout"]["redness"].pop("interval95") == pytest.approx(two["heldout"]["redness"].pop("interval95"))
        assert one["heldout"]["redness"] == pytest.approx(two["heldout"]["redness"])


@pytest.mark.parametrize("case", RESUMED)
@pytest.mark.parametrize("way", ["one-then-two", "two-then-one"])
def test_another_number_of_processes_resumes_the_same_run(way: str, case: str, runs: Path) -> None:
    assert_same_checkpoint(
        runs / "one" / case / "checkpoints/step-000002", runs / way / case / "checkpoints/step-000002"
    )


class TestSharedProcessGroup:
    @pytest.mark.parametrize("adapter", ["lora", "full"])
    def test_ranks_save_requested_checkpoints_and_pause(self, adapter: str, runs: Path) -> None:
        out = runs / f"real/paused-{adapter}"
        [end] = events(out, "finished")
        asked, last = events(out, "checkpoint")
        assert (asked["request"], end["outcome"], last["step"]) == (1, "paused", end["step"])
        manifest = read_manifest(out / last["directory"])
        assert (manifest.step, manifest.kind) == (end["step"], adapter)

    def test_in_bfloat16_and_with_several_threads_each_the_sharded_policy_is_the_one_that_drew(
        self, runs: Path
    ) -> None:
        out = runs / "real/bfloat16"
        [started] = events(out, "started")
        assert (started["provenance"]["threads"], len(set(started["provenance"]["processes"]))) == (2, 2)
        [values] = [event["values"] for event in events(out, "metrics")]
        assert [values["ratio/min"], values["ratio/max"]] == pytest.approx([1, 1], abs=1e-5)

    def test_cancelled_ranks_end(self, runs: Path) -> None:
        assert events(runs / "real/cancelled", "finished")[0]["outcome"] == "cancelled"

    def test_error_is_reported_once(self, runs: Path) -> None:
        [failed] = events(runs / "real/wrong", "failed")
        assert (failed["code"], "dinosaur" in failed["detail"]) == ("bad_config", True)


class TestEnds:
    @pytest.fixture
    def begun(self, tmp_path: Path) -> "Iterator[Callable[..., subprocess.Popen[bytes]]]":
        """Starts two ranks, and stops them after the test."""
        started: list[subprocess.Popen[bytes]] = []

        def begin(*program: str) -> "subprocess.Popen[bytes]":
            started.append(start(tmp_path / "out", 2, *program))
            return started[-1]

        yield begin
        for process in started:
            process.kill()
            process.wait()

    @pytest.fixture(params=["waiting", pytest.param("training", marks=pytest.mark.slow)])
    def running(
        self, request: pytest.FixtureRequest, begun: Any, tmp_path: Path, eventually: Eventually
    ) -> "tuple[subprocess.Popen[bytes], list[int]]":
        """Two ranks that wait for each other, or train, and their process ids."""
        out = tmp_path / "out"
        if request.param == "training":
            process = begun("worker.entrypoints.train", *real(out, {}))
            eventually(lambda: said(out, "metrics") or process.poll() is not None)
            return process, said(out, "started")[0]["provenance"]["processes"]
        process = begun("tests.worker.engine.training.waiting_rank", str(out))
        files = [out / f"rank-{rank}" for rank in range(2)]
        eventually(lambda: all(file.exists() for file in files) or process.poll() is not None)
        return process, [int(file.read_text()) for file in files]

    def test_killed_rank_ends_all_ranks_and_is_named(
        self, running: "tuple[subprocess.Popen[bytes], list[int]]", tmp_path: Path
    ) -> None:
        process, ranks = running
        os.kill(ranks[1], signal.SIGKILL)

        assert process.wait() == -signal.SIGKILL
        assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
        assert f"rank 1 of 2 (process {ranks[1]}) was ended by SIGKILL" in (tmp_path / "out/log.txt").read_text()
        assert not said(tmp_path / "out", "failed")  # the other rank's message is not the cause

    def test_ranks_end_when_their_launcher_is_killed(
        self, running: "tuple[subprocess.Popen[bytes], list[int]]", eventually: Eventually
    ) -> None:
        process, ranks = running
        process.kill()
        eventually(lambda: not any(Path(f"/proc/{rank}").exists() for rank in ranks))
