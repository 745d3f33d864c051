"""Training on the reward of a server: concurrent with sampling, and across a failure of the server."""

import base64
import io
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml
from PIL import Image, ImageStat
from tenacity import retry, stop_after_delay, wait_fixed

from service.contracts.catalog import BUNDLED, RewardEntry
from tests.worker.engine.evaluation.judge_server import JudgeRequest, JudgeServer, Reply, Serve
from tests.worker.engine.rewards.test_remote_base import values
from tests.worker.engine.training.miniature import SMALL, events, metrics, small, spec, tensors
from worker.engine.rewards.custom_http import HttpReward
from worker.engine.training.reward_failures import RewardsUnavailable
from worker.engine.training.trainer import Trainer
from worker.entrypoints.train import PAUSED_ITSELF, main

EXAMPLE = Path(__file__).parents[4] / "docs" / "examples"
STEP_REQUESTS = 3
"""Number of requests in a step of `remote`: 16 images in batches of 8, and two anchors."""


def brightness(request: JudgeRequest) -> Reply:
    shown = [Image.open(io.BytesIO(base64.b64decode(one))) for one in request.body["images"]]
    return values(*(ImageStat.Stat(one.convert("L")).mean[0] for one in shown))


def remote(directory: Path, server: JudgeServer, **changes: Any) -> Trainer:
    """A run with clip_score and a remote reward that replaces the verifier."""
    subject = small(directory, **changes)
    asked = {"kind": "http", "url": server.url, "tries": 1, "timeout_seconds": 5}
    entry = RewardEntry.model_validate({"name": "shapes_verifier", **asked})
    subject.scorer.rewards["shapes_verifier"] = HttpReward(entry, first_wait=0.001)
    return subject


def test_run_paused_by_a_dead_server_resumes_bit_identically(serve: Serve, tmp_path: Path) -> None:
    remote(tmp_path / "undisturbed", serve(brightness)).run()
    down = threading.Event()

    def dies(request: JudgeRequest) -> Reply:
        if request.number == 2 * STEP_REQUESTS:
            down.set()
        return Reply(503, b"the graphics card fell out") if down.is_set() else brightness(request)

    server = serve(dies)
    subject = remote(tmp_path / "first", server)
    with pytest.raises(RewardsUnavailable) as away:
        subject.run()
    subject.pause(away.value.cause)

    (last,) = events(tmp_path / "first", "finished")
    assert (last["outcome"], last["step"], last["cause"]["code"]) == ("paused", 2, "rewards_failed")
    host = server.url.removeprefix("http://").removesuffix("/v1")
    assert f"'shapes_verifier' (server {host}) failed for all 16 images" in last["cause"]["detail"]
    assert "the graphics card fell out" in last["cause"]["detail"] and "resume" in last["cause"]["hint"]

    down.clear()
    server.requests.clear()
    server.plan = brightness
    again = remote(tmp_path / "second", server)
    again.checkpoints.resume(tmp_path / "first" / "checkpoints" / "step-000002")
    again.run()
    end = Path("checkpoints") / "step-000004"
    assert tensors(tmp_path / "second" / end) == tensors(tmp_path / "undisturbed" / end)
    recorded = metrics(tmp_path / "first", "^reward/") + metrics(tmp_path / "second", "^reward/")
    assert recorded == metrics(tmp_path / "undisturbed", "^reward/")


def test_partial_server_failures_are_counted_and_the_run_trains(serve: Serve, tmp_path: Path) -> None:
    def forgetful(request: JudgeRequest) -> Reply:
        return values(*([None] + [0.5 * n for n in range(len(request.body["prompts"]) - 1)]))

    remote(tmp_path, serve(forgetful), training={"max_steps": 1}).run()
    assert dict(metrics_of(tmp_path, "^failures/")) == {
        "failures/clip_score": 0,
        "failures/shapes_verifier": 2,
        "failures/shapes_verifier/null": STEP_REQUESTS,
    }


def metrics_of(directory: Path, pattern: str) -> list[tuple[str, float]]:
    return [(name, value) for _, name, value in metrics(directory, pattern)]


@pytest.mark.parametrize("algorithm", [{"group_size": 4, "sde_steps": [0, 2]}, {"name": "mix_grpo", "group_size": 8}])
def test_reward_requests_overlap_with_sampling(serve: Serve, tmp_path: Path, algorithm: dict[str, Any]) -> None:
    """The server receives the first prompt's images before the last evaluation of the second prompt."""
    server = serve(brightness)
    changes = {"algorithm": algorithm, "sampling": {"rollout_batch_size": 8}}
    subject = remote(tmp_path, server, **changes)
    prompts = subject.prompts.sample(0, 2)
    seen: list[int] = []
    subject.model.transformer.register_forward_hook(lambda *_: seen.append(len(subject.rollout._scored)))
    rollout = subject.rollout.sample(prompts, subject.model.encode(prompts))
    assert seen[0] == 0 and seen[-1] > 0
    beside = subject.rollout.score(rollout.ends, prompts)
    # Other batches change the last bits, and thereby sometimes a pixel by 1/255.
    torch.testing.assert_close(beside, subject.rollout.score(rollout.ends, prompts), rtol=1e-4, atol=1e-4)


def test_heldout_evaluation_waits_for_its_server(serve: Serve, tmp_path: Path) -> None:
    subject = remote(tmp_path, serve(lambda _: Reply(500)), heldout={"every": 2, "pairs": 4, "final_pairs": 0})
    with pytest.raises(RewardsUnavailable, match="failed for all 4 images"):
        subject.run()
    subject.pause()
    assert not events(tmp_path, "metrics") and (tmp_path / "checkpoints" / "step-000000").is_dir()


@pytest.fixture
def example(tmp_path: Path) -> Iterator[str]:
    """The example server of the documentation, started as described; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "reward_server:app", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, cwd=EXAMPLE)

    @retry(stop=stop_after_delay(30), wait=wait_fixed(0.05))
    def answers() -> None:
        httpx.get(f"http://127.0.0.1:{port}/openapi.json").raise_for_status()

    try:
        answers()
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def test_documented_server_trains_a_run_and_its_absence_pauses_it(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = yaml.safe_load(BUNDLED.read_text())
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    catalog["rewards"] += [
        {"name": "brightness", "kind": "http", "url": example},
        {"name": "away", "kind": "http", "url": nobody, "tries": 1},
    ]
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(catalog))
    monkeypatch.setenv("G2RPO_CATALOG", str(tmp_path / "catalog.yaml"))
    assert run(tmp_path, "brightness") == 0
    (started,) = events(tmp_path / "brightness", "started")
    assert started["provenance"]["rewards"]["brightness"]["server"] == example.split("/")[2]
    rewards = [value for _, value in metrics_of(tmp_path / "brightness", "^reward/brightness")]
    assert len(rewards) == 2 and all(0 < value < 1 for value in rewards)
    assert run(tmp_path, "away") == PAUSED_ITSELF
    (last,) = events(tmp_path / "away", "finished")
    assert last["outcome"] == "paused" and "ConnectError" in last["cause"]["detail"]


def run(directory: Path, reward: str) -> int:
    """Train for two steps with one reward, and return the exit status."""
    file = directory / f"{reward}.json"
    algorithm = {"group_size": 2, "sde_steps": [0, 2]}
    training = {**SMALL["training"], "max_steps": 2}
    file.write_text(
        spec(**{**SMALL, "algorithm": algorithm, "training": training, "rewards": [{"name": reward}]}).model_dump_json()
    )
    return main([str(file), "--out", str(directory / reward), "--device", "cpu"])
