"""Stopped, interrupted and resumed evaluation attempts."""

import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from service.contracts.attempt_files import PARENT_FD, Control
from service.contracts.evaluations import EvaluationJob, ImageName
from tests.worker.engine.evaluation.conftest import Attempt
from tests.worker.engine.evaluation.judge_server import JudgeRequest, JudgeServer, Reply, Serve, completion, valid_reply
from tests.worker.engine.evaluation.setting import (
    UNREACHABLE_URL,
    entry,
    events,
    files,
    image_key,
    image_keys,
    job,
    remaining_job,
)


class TestResume:
    def test_missing_images_are_regenerated_bit_identically(self, serve: Serve, attempt: Attempt) -> None:
        whole = job(entry(serve().url, concurrency=4), prompts=36, steps=1, rewards=["clip_score"])  # two batches
        _, out = attempt(whole)
        first = {image_key(event): event for event in events(out, "image")}
        kept = random.Random(1).sample(image_keys(whole), 30)
        rest = whole.model_copy(update={"done": tuple(ImageName(index=i, image_index=j) for i, j in kept)})
        _, again = attempt(rest, "again")
        assert {image_key(event) for event in events(again, "image")} == set(image_keys(whole)) - set(kept)
        assert all(files(out)[name] == data for name, data in files(again).items())
        for event in events(again, "image"):
            assert event["rewards"] == first[image_key(event)]["rewards"]
        assert events(again, "started")[0]["resumed_at"] == 30
        assert (events(again, "progress")[0]["step"], events(again)[-1]["step"]) == (30, 72)

    def test_only_failures_are_judged_again(self, serve: Serve, attempt: Attempt) -> None:
        bad = {(0, 1), (7, 0)}
        server = serve(lambda request: completion("well …"))
        whole = job(entry(server.url, tries=2))
        numbers = iter(image_keys(whole))
        in_turn: dict[int, tuple[int, int]] = {}

        def plan(request: JudgeRequest) -> Reply:
            if request.repeats == 0:
                in_turn[request.number] = next(numbers)
            here = in_turn.get(request.number, in_turn.get(request.number - 1))
            return completion("well …") if here in bad else valid_reply(request)

        server.plan = plan
        _, out = attempt(whole)
        rest = remaining_job(whole, [out])
        assert {(name.index, name.image_index): name.requests for name in rest.pending} == dict.fromkeys(bad, 2)
        server.plan = valid_reply
        shutil.copytree(out / "images", out.parent / "again" / "images")
        _, again = attempt(rest, "again")
        assert events(again, "image") == []
        assert events(again, "started")[0]["provenance"]["weights"] == {}
        assert {image_key(event): event["number"] for event in events(again, "answer")} == dict.fromkeys(bad, 3)
        assert events(again)[-1]["step"] == 6

    def test_lost_file_is_regenerated(self, serve: Serve, attempt: Attempt) -> None:
        whole = job(entry(serve(lambda _: completion("well …")).url, tries=1))
        _, out = attempt(whole)
        status, again = attempt(remaining_job(whole, [out]), "again")
        assert (status, files(again)) == (0, files(out))
        assert {event["number"] for event in events(again, "answer")} == {2}

    def test_completed_job_ends_immediately(self, attempt: Attempt) -> None:
        whole = job(entry(UNREACHABLE_URL))
        rest = whole.model_copy(update={"done": tuple(ImageName(index=i, image_index=j) for i, j in image_keys(whole))})
        status, out = attempt(rest)
        assert (status, [event["type"] for event in events(out)]) == (0, ["progress", "started", "finished"])

    def test_directory_with_an_attempt_is_rejected(self, attempt: Attempt, capsys: pytest.CaptureFixture[str]) -> None:
        nothing = job(None, prompts=1, rewards=["shapes_verifier"])
        _, out = attempt(nothing)
        before = (out / "events.jsonl").read_bytes()
        status, _ = attempt(nothing)
        assert (status, (out / "events.jsonl").read_bytes()) == (2, before)
        assert "already contains an attempt" in capsys.readouterr().err


class TestStopping:
    @pytest.mark.parametrize(("action", "outcome"), [("cancel", "cancelled"), ("pause", "paused")])
    def test_control_file_stops_the_attempt(
        self,
        serve: Serve,
        attempt: Attempt,
        tmp_path: Path,
        action: Any,
        outcome: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("worker.engine.evaluation.judge_pool.STOP_SECONDS", 0.2)  # for the missing response

        def plan(request: JudgeRequest) -> Reply:
            if request.number < 4:
                return valid_reply(request)
            control = tmp_path / "attempt" / "control.json"
            control.with_suffix(".new").write_text(Control(action=action).model_dump_json())
            control.with_suffix(".new").rename(control)
            return Reply(hang=True)

        status, out = attempt(job(entry(serve(plan).url)))
        end = events(out)[-1]
        assert (status, end["type"], end["outcome"], end["step"]) == (0, "finished", outcome, 4)
        assert len(events(out, "answer")) == 4

    def test_stop_precedes_generation(self, serve: Serve, attempt: Attempt, tmp_path: Path) -> None:
        (tmp_path / "attempt").mkdir()
        (tmp_path / "attempt" / "control.json").write_text(Control(action="cancel").model_dump_json())
        _, out = attempt(job(entry(UNREACHABLE_URL)))
        assert (events(out)[-1]["outcome"], events(out, "image")) == ("cancelled", [])

    def test_responses_in_flight_are_recorded(self, serve: Serve, attempt: Attempt, tmp_path: Path) -> None:
        def plan(request: JudgeRequest) -> Reply:
            if request.number == 4:
                (tmp_path / "attempt" / "control.json").write_text(Control(action="pause").model_dump_json())
                threading.Event().wait(0.5)
            return valid_reply(request)

        _, out = attempt(job(entry(serve(plan).url)))
        assert (events(out)[-1]["outcome"], len(events(out, "answer"))) == ("paused", 5)


class TestOrphaned:
    @pytest.fixture
    def held(self) -> threading.Event:
        """Set when the judge receives its eighth request."""
        return threading.Event()

    @pytest.fixture
    def server(self, serve: Serve, held: threading.Event) -> JudgeServer:
        def plan(request: JudgeRequest) -> Reply:
            if request.number < 7:
                return valid_reply(request)
            held.set()
            return Reply(hang=True)

        return serve(plan)

    def start(self, whole: EvaluationJob, out: Path, **options: Any) -> subprocess.Popen[bytes]:
        """The real child process."""
        file = out.with_suffix(".json")
        file.write_text(whole.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-m", "worker.entrypoints.evaluate", str(file), "--out", str(out), "--device", "cpu"]
        threads = str(torch.get_num_threads())  # affects the last bits of images on some CPUs
        environment = {**os.environ, "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": threads, **options.pop("env", {})}
        return subprocess.Popen(command, env=environment, **options)

    def test_orphaned_attempt_loses_only_requests_in_flight(
        self, server: JudgeServer, held: threading.Event, attempt: Attempt, tmp_path: Path
    ) -> None:
        reading, writing = os.pipe()
        whole, out = job(entry(server.url), prompts=6), tmp_path / "orphan"
        with self.start(whole, out, env={PARENT_FD: str(reading)}, pass_fds=(reading,)) as child:
            os.close(reading)
            assert held.wait(180)
            os.close(writing)  # as after the parent's death: the child ends immediately, as if it were killed
            assert child.wait(60) == 1
        assert events(out)[-1]["type"] not in ("finished", "failed")

        server.plan = valid_reply
        in_flight = server.requests[7].body
        rest = remaining_job(whole, [out])
        assert len(rest.done) == 7
        shutil.copytree(out / "images", tmp_path / "again" / "images")
        status, again = attempt(rest, "again")
        assert (status, events(again)[-1]["step"]) == (0, 12)
        assert sorted(map(image_key, events(out, "answer") + events(again, "answer"))) == image_keys(whole)
        twice = [request.body for request in server.requests if request.repeats]
        assert twice == [in_flight]
        _, uninterrupted = attempt(whole, "uninterrupted")
        assert files(again) == files(uninterrupted)
