"""Complete runs over HTTP, with a real worker."""

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from service.client import ApiError, Client
from service.contracts.status import TERMINAL, JobStatus
from service.local.stack import Stack

pytestmark = pytest.mark.long

Eventually = Callable[[Callable[[], object]], None]


class TestFinished:
    def test_a_finished_run_reports_its_progress(self, client: Client, finished: Any) -> None:
        assert finished.status is JobStatus.SUCCEEDED
        assert finished.attempt == 1
        assert finished.progress.step == 2
        assert {"clip_score", "shapes_verifier"} == finished.heldout.keys()
        assert finished.heldout["clip_score"].pairs == 8

    def test_nfe_equals_the_plan(self, client: Client, finished: Any, tiny: Any) -> None:
        plan = client.plan(tiny)
        counted = {
            curve.name: sum(curve.values) for curve in client.curves(finished.id, ["nfe/*"]).curves if curve.steps
        }
        rollout = counted["nfe/anchor"] + counted["nfe/continuation"]
        assert rollout == plan.per_step_nfe * 2
        assert counted["nfe/heldout"] == plan.heldout_nfe

    def test_every_reward_of_every_group_is_stored(self, client: Client, finished: Any) -> None:
        groups = list(client.rewards(finished.id))
        assert len(groups) == 2 * 2 * 1 * 2 * 2  # steps, prompts, SDE steps, granularities, rewards
        assert {len(group.values) for group in groups} == {2}

    def test_samples_are_valid_images(self, client: Client, finished: Any) -> None:
        heldout = list(client.samples(finished.id, kind="heldout"))
        assert {sample.step for sample in heldout} == {0, 1, 2}
        assert len(heldout) == 6
        png = client.fetch_image(heldout[0].image)
        assert png.startswith(b"\x89PNG") and hashlib.sha256(png).hexdigest() == heldout[0].sha256

    def test_checkpoints_are_downloaded_completely(self, client: Client, finished: Any, tmp_path: Path) -> None:
        newest, oldest = client.checkpoints(finished.id)
        assert (newest.step, oldest.step) == (2, 1)
        files = client.download(newest.id, tmp_path)
        hashes = {file.name: file.sha256 for file in client.checkpoint(newest.id).files}
        found = {str(file.relative_to(tmp_path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        assert found == hashes

    def test_log_and_curves_are_readable(self, client: Client, finished: Any) -> None:
        assert client.logs(finished.id).attempt == 1
        assert client.curves_as(finished.id, "text/csv", ["heldout/*"]).count(b"\n") > 3
        assert client.curves_as(finished.id, "image/png", ["heldout/*"]).startswith(b"\x89PNG")


class TestSeveralProcesses:
    @pytest.mark.slow
    @pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="each process needs its own core")
    def test_several_processes_are_one_run(self, client: Client, finished: Any, tiny: Any) -> None:
        body = {**tiny, "resources": {"processes_per_node": 2}}
        run = client.wait_for_run(client.create_run(body).id, timeout=240, every=0.2)

        assert run.status is JobStatus.SUCCEEDED, run.error
        assert run.progress.step == 2
        provenance = next(client.attempts(run.id)).provenance
        assert (provenance["devices"], len(set(provenance["processes"]))) == (["cpu", "cpu"], 2)
        one, two = (
            {
                group.model_dump_json(include={"step", "prompt_index", "sde_step", "granularity", "reward"})
                for group in found
            }
            for found in (client.rewards(finished.id), client.rewards(run.id))
        )
        assert one == two
        assert [checkpoint.step for checkpoint in client.checkpoints(run.id)] == [2, 1]

    @pytest.mark.skipif(len(os.sched_getaffinity(0)) >= 64, reason="the machine has the maximum number of processes")
    def test_more_processes_than_devices_are_rejected(self, client: Client, finished: Any) -> None:
        body = {"training": {"prompts_per_step": 64}, "resources": {"processes_per_node": 64}}
        with pytest.raises(ApiError, match="64 processes need a device each"):
            client.create_run(body)


class TestGenerate:
    def test_checkpoints_are_compared_on_the_same_noise(self, client: Client, finished: Any) -> None:
        newest = next(client.checkpoints(finished.id))
        prompts = [sample.prompt for sample in client.samples(finished.id, kind="heldout", step=0)]
        spec = {"checkpoints": ["base", str(newest.id)], "prompts": prompts, "num_images": 2, "seed": 3}

        made, again = client.generate(spec, wait=120), client.generate(spec, wait=120)

        assert made.status is JobStatus.SUCCEEDED, made.error
        assert [image.number for image in made.images] == list(range(8))
        assert [image.seed for image in made.images] == [3, 4] * 4
        assert [image.sha256 for image in made.images] == [image.sha256 for image in again.images]
        assert client.image(made.id, 0).startswith(b"\x89PNG")
        assert client.grid(made.id).startswith(b"\x89PNG")


class TestEnds:
    @pytest.mark.slow
    def test_a_run_continues_on_another_worker_after_draining(
        self, client: Client, stack: Stack, tiny: Any, eventually: Eventually
    ) -> None:
        """SIGTERM with the real engine. `tests/faults/test_claims_under_noise.py` does it with a scripted one.

        SIGKILL is in `test_life.py`.
        """
        world = {"model": "shapes-flux-2", "prompts": {"set": "shapes-bench-train"}}
        world["rewards"] = [{"name": "clip_score_2"}]
        training = {**tiny["training"], "max_steps": 20}
        id = client.create_run({**tiny, **world, "training": training, "heldout": {"every": 0}}).id
        eventually(lambda: list(client.checkpoints(id)))
        worker = psutil.Process(stack.processes["worker-train"])
        children = worker.children()
        assert len(children) == 1

        worker.send_signal(signal.SIGTERM)

        eventually(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))
        run = client.wait_for_run(id, timeout=120, every=0.2)
        assert (run.status, run.attempt) == (JobStatus.SUCCEEDED, 2)
        assert len(list(client.rewards(id))) == 20 * 4

    def test_a_loading_run_is_cancelled_immediately(self, client: Client, tiny: Any, eventually: Eventually) -> None:
        id = client.create_run(tiny).id
        eventually(lambda: client.run(id).status is JobStatus.STARTING)
        client.cancel(id)
        eventually(lambda: client.run(id).status is JobStatus.CANCELLED)


class TestRefusals:
    def test_the_client_raises_the_errors_of_the_service(self, client: Client) -> None:
        with pytest.raises(ApiError) as raised:
            client.create_run({"training": {"max_steps": 0}})
        assert raised.value.status == 422
        assert "max_steps" in str(raised.value)

    def test_the_error_names_an_unreachable_service(self) -> None:
        with (
            Client("http://127.0.0.1:1", patience=0.5) as unreachable,
            pytest.raises(ApiError, match="service running"),
        ):
            unreachable.catalog()

    def test_listing_returns_all_pages(self, client: Client, finished: Any) -> None:
        listed = list(client.runs())
        assert finished.id in {run.id for run in listed}
        assert {run.id for run in client.runs(status=["succeeded"])} <= {run.id for run in listed}
        assert all(run.status in TERMINAL for run in client.runs(status=sorted(TERMINAL)))
