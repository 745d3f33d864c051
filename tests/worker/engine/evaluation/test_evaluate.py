"""Attempts at an evaluation: with the bundled model, and a judge on a real connection."""

import hashlib
import io
import logging
import os
import random
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import torch
from PIL import Image

from service.contracts.catalog import load_catalog
from service.contracts.evaluations import EvaluationEventLine, EvaluationJob, ImageName
from service.contracts.generations import GenerationSpec
from service.contracts.jobs import PARENT_FD, Control
from tests.worker.engine.evaluation.conftest import Attempt, attempts_in
from tests.worker.engine.evaluation.judge_server import Asked, JudgeServer, Reply, Serve, judged, says
from tests.worker.engine.evaluation.setting import entry, events, go_on, job, place_of, places
from tests.worker.engine.training.miniature import trainer
from worker.engine.inference.generator import Generator
from worker.engine.training.event_log import EventWriter
from worker.entrypoints.evaluate import build_evaluator

TOKEN = "sk-not-for-anybody-0123456789"
DEAD = "http://127.0.0.1:9/v1"


def files(directory: Path) -> dict[str, bytes]:
    """An attempt's images."""
    return {path.name: path.read_bytes() for path in (directory / "images").iterdir()}


def in_order(job: EvaluationJob, directory: Path) -> list[bytes]:
    """Them, prompt by prompt."""
    return [files(directory)[f"{index}_{image_index}.png"] for index, image_index in places(job)]


def pixels(png: bytes) -> bytes:
    """What a file shows."""
    with Image.open(io.BytesIO(png)) as image:
        return image.tobytes()


def failed(directory: Path) -> dict[str, Any]:
    """How it failed: with its last event."""
    last = events(directory)[-1]
    assert last["type"] == "failed"
    return last


class TestWhole:
    """One attempt at a whole job, and what it wrote."""

    @pytest.fixture(scope="class")
    def carried_out(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EvaluationJob, int, Path]]:
        """The job, the exit status and the attempt's directory."""
        server = JudgeServer()
        whole = job(entry(server.url, concurrency=3), rewards=["clip_score", "shapes_verifier"])
        yield whole, *attempts_in(tmp_path_factory.mktemp("whole"))(whole)
        server.close()

    @pytest.fixture
    def whole(self, carried_out: tuple[EvaluationJob, int, Path]) -> EvaluationJob:
        return carried_out[0]

    @pytest.fixture
    def out(self, carried_out: tuple[EvaluationJob, int, Path]) -> Path:
        return carried_out[2]

    def test_every_image_is_drawn_and_judged(self, carried_out: tuple[EvaluationJob, int, Path]) -> None:
        whole, status, out = carried_out
        assert status == 0
        drawn, answers = events(out, "image"), events(out, "answer")
        assert [place_of(event) for event in drawn] == places(whole)
        assert sorted(map(place_of, answers)) == places(whole)
        assert all(event["seed"] == whole.spec.seed + event["image_index"] for event in drawn)
        assert all(set(event["rewards"]) == {"clip_score", "shapes_verifier"} for event in drawn)
        assert all(None not in event["rewards"].values() for event in drawn)
        assert all((event["number"], event["scores"], event["failure"]) == (1, [1, 0, 1], None) for event in answers)
        finished = events(out)[-1]
        assert (finished["type"], finished["outcome"], finished["step"]) == ("finished", "succeeded", 6)

    def test_files_are_what_was_told(self, whole: EvaluationJob, out: Path) -> None:
        found = files(out)
        assert found.keys() == {f"{index}_{image_index}.png" for index, image_index in places(whole)}
        for event in events(out, "image"):
            data = found[f"{event['index']}_{event['image_index']}.png"]
            assert (event["sha256"], event["size"]) == (hashlib.sha256(data).hexdigest(), len(data))

    def test_images_are_those_of_a_generation(self, whole: EvaluationJob, out: Path) -> None:
        prompts = tuple(prompt.text for prompt in whole.benchmark.prompts)
        same = GenerationSpec(prompts=prompts, num_images=2, seed=whole.spec.seed, steps=2)
        drawn = list(Generator("cpu").generate(same, {"base": None}))
        assert [pixels(file) for file in in_order(whole, out)] == [pixels(image.png) for image in drawn]

    def test_a_file_says_what_it_shows(self, whole: EvaluationJob, out: Path) -> None:
        with Image.open(out / "images" / "7_1.png") as image:
            assert image.text == {  # type: ignore[attr-defined]
                "prompt": whole.benchmark.prompts[1].text,
                "seed": "3408",
                "model": "shapes-flux",
                "checkpoint": "base",
                "benchmark": "small",
                "index": "7",
                "image_index": "1",
            }

    def test_events_are_of_the_contract(self, out: Path) -> None:
        read = [EvaluationEventLine.validate_json(line) for line in (out / "events.jsonl").read_bytes().splitlines()]
        first, second, *others, last = [event.type for event in read]
        assert (first, second, last) == ("progress", "started", "finished")
        assert set(others) == {"image", "answer", "progress"}

    def test_provenance_says_what_was_measured_with_what(self, whole: EvaluationJob, out: Path) -> None:
        (started,) = events(out, "started")
        found = started["provenance"]
        assert found["weights"].keys() == {"shapes-flux", "clip_score"}  # the verifier has none
        assert found["judge"] == {"name": "tester", "kind": "openai", "identity": "Looker-1"}
        assert found["benchmark"]["content_sha256"] == whole.benchmark.content_sha256
        assert (found["device"], found["precision"]) == ("cpu", "float32")

    def test_progress_counts_finished_images(self, out: Path) -> None:
        first, *_, last = events(out, "progress")
        assert (first["phase"], first["step"], first["max_steps"]) == ("loading", 0, 6)
        assert (last["phase"], last["step"], last["eta_seconds"]) == ("evaluation", 6, 0.0)

    def test_a_reward_that_fails_is_null(self, attempt: Attempt, caplog: pytest.LogCaptureFixture) -> None:
        whole = job(None, rewards=["shapes_verifier", "clip_score"])
        first, *others = whole.benchmark.prompts
        strange = first.model_copy(update={"text": f"{first.text} {first.text}"})
        whole = whole.model_copy(
            update={"benchmark": whole.benchmark.model_copy(update={"prompts": (strange, *others)})}
        )
        _, out = attempt(whole)
        nothing = [place_of(event) for event in events(out, "image") if event["rewards"]["shapes_verifier"] is None]
        assert nothing == [(0, 0), (0, 1)]
        assert all(event["rewards"]["clip_score"] is not None for event in events(out, "image"))


class TestCheckpoint:
    def test_its_weights_draw(self, attempt: Attempt, tmp_path: Path) -> None:
        run = tmp_path / "run"
        training = {"max_steps": 1, "learning_rate": 0.01}
        little = {"every": 0, "pairs": 1, "final_pairs": 1, "samples": 0}
        trainer(run, training=training, checkpoints={"every": 1}, heldout=little).run()
        checkpoint = run / events(run, "checkpoint")[-1]["directory"]
        whole = job(None, checkpoint=UUID(int=7), rewards=["shapes_verifier"])
        status, out = attempt(whole, "attempt", "--checkpoint", str(checkpoint))
        assert status == 0
        prompts = tuple(prompt.text for prompt in whole.benchmark.prompts)
        same = GenerationSpec(prompts=prompts, checkpoints=(UUID(int=7), "base"), num_images=2, seed=3407, steps=2)
        drawn = list(Generator("cpu").generate(same, {str(UUID(int=7)): checkpoint, "base": None}))
        assert [pixels(file) for file in in_order(whole, out)] == [pixels(image.png) for image in drawn[:6]]
        assert [pixels(image.png) for image in drawn[:6]] != [pixels(image.png) for image in drawn[6:]]


class TestAsking:
    def test_unreadable_answers_are_asked_for_again_and_all_kept(self, serve: Serve, attempt: Attempt) -> None:
        replies = {0: says("well …"), 1: says("<score>[1, 0]</score>")}
        server = serve(lambda asked: replies.get(asked.again, judged(asked)) if asked.number < 3 else judged(asked))
        _, out = attempt(job(entry(server.url), prompts=1, num_images=1))
        assert [(event["number"], event["failure"], event["scores"]) for event in events(out, "answer")] == [
            (1, "no_scores", None),
            (2, "wrong_count", None),
            (3, None, [1, 0, 1]),
        ]
        assert [event["text"] for event in events(out, "answer")][:2] == ["well …", "<score>[1, 0]</score>"]

    def test_but_only_so_often(self, serve: Serve, attempt: Attempt) -> None:
        server = serve(lambda _: says("well …"))
        status, out = attempt(job(entry(server.url, tries=2)))
        assert Counter(map(place_of, events(out, "answer"))) == dict.fromkeys(places(job(None, rewards=["x"])), 2)
        assert (status, events(out)[-1]["outcome"], events(out)[-1]["step"]) == (0, "succeeded", 6)

    def test_a_refused_image_fails_alone(self, serve: Serve, attempt: Attempt) -> None:
        server = serve(lambda asked: Reply(400, b"unsafe") if asked.number == 2 else judged(asked))
        status, out = attempt(job(entry(server.url)))
        answers = events(out, "answer")
        assert (status, len(answers), len(server.asked)) == (0, 6, 6)
        (refused,) = [event for event in answers if event["scores"] is None]
        assert (refused["failure"], refused["text"]) == ("no_answer", None)
        assert "HTTP 400" in refused["error"] and "unsafe" in refused["error"]

    def test_if_all_are_refused_the_judge_is_at_fault(self, serve: Serve, attempt: Attempt) -> None:
        server = serve(lambda _: Reply(400, b"this model takes no images"))
        status, out = attempt(job(entry(server.url), prompts=10))
        end = failed(out)
        assert (status, end["code"], len(server.asked)) == (1, "judge_failed", 16)
        assert "tester" in end["detail"] and "this model takes no images" in end["detail"]

    def test_even_if_there_are_few(self, serve: Serve, attempt: Attempt) -> None:
        server = serve(lambda _: Reply(400, b"this model takes no images"))
        status, out = attempt(job(entry(server.url)))
        assert (status, failed(out)["code"]) == (1, "judge_failed")

    def test_a_wrong_key_ends_it_at_once_and_stays_secret(
        self,
        serve: Serve,
        attempt: Attempt,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        monkeypatch.setenv("LOOKER_KEY", TOKEN)
        server = serve(lambda _: Reply(401, f"Incorrect API key provided: {TOKEN}".encode()))
        status, out = attempt(job(entry(server.url, token_env="LOOKER_KEY")))
        end = failed(out)
        assert (status, end["code"]) == (1, "judge_failed")
        assert "HTTP 401" in end["detail"] and "token_env" in end["detail"]
        assert "/evaluations/ID/resume" in end["hint"]
        assert TOKEN in server.asked[0].headers["Authorization"]
        assert TOKEN not in caplog.text
        assert not any(TOKEN in path.read_text(errors="replace") for path in out.iterdir() if path.is_file())

    def test_a_judge_that_is_away_ends_it_and_keeps_what_was_judged(self, serve: Serve, attempt: Attempt) -> None:
        server = serve(lambda asked: judged(asked) if asked.number < 4 else Reply(503, b"out of order"))
        whole = job(entry(server.url, patience_seconds=0.1))
        status, out = attempt(whole)
        end = failed(out)
        assert (status, end["code"]) == (1, "judge_failed")
        assert "'tester' has not responded for" in end["detail"] and "out of order" in end["detail"]
        assert len(events(out, "answer")) == 4
        assert len(go_on(whole, [out]).done) == 4

    def test_drawing_does_not_wait_for_the_judge(
        self, serve: Serve, attempt: Attempt, tmp_path: Path, eventually: Any
    ) -> None:
        def plan(asked: Asked) -> Reply:
            eventually(lambda: len(list(tmp_path.glob("attempt/images/*.png"))) == 140)
            return judged(asked)

        status, out = attempt(job(entry(serve(plan).url), prompts=70, steps=1))  # three batches
        assert (status, len(events(out, "answer"))) == (0, 140)


class TestGoingOn:
    def test_what_is_missing_is_drawn_bit_for_bit_as_it_was(self, serve: Serve, attempt: Attempt) -> None:
        whole = job(entry(serve().url, concurrency=4), prompts=36, steps=1, rewards=["clip_score"])  # two batches
        _, out = attempt(whole)
        first = {place_of(event): event for event in events(out, "image")}
        kept = random.Random(1).sample(places(whole), 30)
        rest = whole.model_copy(update={"done": tuple(ImageName(index=i, image_index=j) for i, j in kept)})
        _, again = attempt(rest, "again")
        assert {place_of(event) for event in events(again, "image")} == set(places(whole)) - set(kept)
        assert all(files(out)[name] == data for name, data in files(again).items())
        for event in events(again, "image"):
            assert event["rewards"] == first[place_of(event)]["rewards"]
        assert events(again, "started")[0]["resumed_at"] == 30
        assert (events(again, "progress")[0]["step"], events(again)[-1]["step"]) == (30, 72)

    def test_only_failures_are_asked_about_again(self, serve: Serve, attempt: Attempt) -> None:
        bad = {(0, 1), (7, 0)}
        server = serve(lambda asked: says("well …"))
        whole = job(entry(server.url, tries=2))
        numbers = iter(places(whole))
        in_turn: dict[int, tuple[int, int]] = {}

        def plan(asked: Asked) -> Reply:
            if asked.again == 0:
                in_turn[asked.number] = next(numbers)
            here = in_turn.get(asked.number, in_turn.get(asked.number - 1))
            return says("well …") if here in bad else judged(asked)

        server.plan = plan
        _, out = attempt(whole)
        rest = go_on(whole, [out])
        assert {(name.index, name.image_index): name.asked for name in rest.drawn} == dict.fromkeys(bad, 2)
        server.plan = judged
        shutil.copytree(out / "images", out.parent / "again" / "images")
        _, again = attempt(rest, "again")
        assert events(again, "image") == []
        assert events(again, "started")[0]["provenance"]["weights"] == {}
        assert {place_of(event): event["number"] for event in events(again, "answer")} == dict.fromkeys(bad, 3)
        assert events(again)[-1]["step"] == 6

    def test_a_file_that_is_gone_is_drawn_again(self, serve: Serve, attempt: Attempt) -> None:
        whole = job(entry(serve(lambda _: says("well …")).url, tries=1))
        _, out = attempt(whole)
        status, again = attempt(go_on(whole, [out]), "again")
        assert (status, files(again)) == (0, files(out))
        assert {event["number"] for event in events(again, "answer")} == {2}

    def test_nothing_left_to_do_is_soon_done(self, attempt: Attempt) -> None:
        whole = job(entry(DEAD))
        rest = whole.model_copy(update={"done": tuple(ImageName(index=i, image_index=j) for i, j in places(whole))})
        status, out = attempt(rest)
        assert (status, [event["type"] for event in events(out)]) == (0, ["progress", "started", "finished"])

    def test_a_directory_that_holds_an_attempt_is_refused(
        self, attempt: Attempt, capsys: pytest.CaptureFixture[str]
    ) -> None:
        nothing = job(None, prompts=1, rewards=["shapes_verifier"])
        _, out = attempt(nothing)
        before = (out / "events.jsonl").read_bytes()
        status, _ = attempt(nothing)
        assert (status, (out / "events.jsonl").read_bytes()) == (2, before)
        assert "already contains an attempt" in capsys.readouterr().err


class TestStopping:
    @pytest.mark.parametrize(("action", "outcome"), [("cancel", "cancelled"), ("pause", "paused")])
    def test_when_it_is_asked_to(
        self,
        serve: Serve,
        attempt: Attempt,
        tmp_path: Path,
        action: Any,
        outcome: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("worker.engine.evaluation.judge_pool.STOP_SECONDS", 0.2)  # for the missing response

        def plan(asked: Asked) -> Reply:
            if asked.number < 4:
                return judged(asked)
            control = tmp_path / "attempt" / "control.json"
            control.with_suffix(".new").write_text(Control(action=action).model_dump_json())
            control.with_suffix(".new").rename(control)
            return Reply(hang=True)

        status, out = attempt(job(entry(serve(plan).url)))
        end = events(out)[-1]
        assert (status, end["type"], end["outcome"], end["step"]) == (0, "finished", outcome, 4)
        assert len(events(out, "answer")) == 4

    def test_before_anything_is_drawn(self, serve: Serve, attempt: Attempt, tmp_path: Path) -> None:
        (tmp_path / "attempt").mkdir()
        (tmp_path / "attempt" / "control.json").write_text(Control(action="cancel").model_dump_json())
        _, out = attempt(job(entry(DEAD)))
        assert (events(out)[-1]["outcome"], events(out, "image")) == ("cancelled", [])

    def test_answers_on_their_way_are_taken(self, serve: Serve, attempt: Attempt, tmp_path: Path) -> None:
        def plan(asked: Asked) -> Reply:
            if asked.number == 4:
                (tmp_path / "attempt" / "control.json").write_text(Control(action="pause").model_dump_json())
                threading.Event().wait(0.5)
            return judged(asked)

        _, out = attempt(job(entry(serve(plan).url)))
        assert (events(out)[-1]["outcome"], len(events(out, "answer"))) == ("paused", 5)


class TestWrongJobs:
    def test_an_unknown_model(self, attempt: Attempt) -> None:
        status, out = attempt(job(None, model="dreamer", rewards=["shapes_verifier"]))
        assert (status, failed(out)["code"]) == (1, "bad_config")
        assert "dreamer" in failed(out)["detail"]

    def test_a_checkpoint_that_was_not_given(self, attempt: Attempt) -> None:
        status, out = attempt(job(None, checkpoint=UUID(int=7), rewards=["shapes_verifier"]))
        assert (status, failed(out)["code"]) == (1, "bad_config")
        assert "--checkpoint" in failed(out)["detail"]

    def test_what_cannot_be_drawn_with_is_refused_before_a_device_is_taken(self, tmp_path: Path) -> None:
        asked, nowhere = job(None, checkpoint=UUID(int=7), rewards=["clip_score"]), torch.device("cuda")
        with pytest.raises(ValueError, match=r"is not a checkpoint"):
            build_evaluator(asked, load_catalog(), EventWriter(tmp_path), nowhere, tmp_path)

    def test_a_checkpoint_that_is_none(self, attempt: Attempt, tmp_path: Path) -> None:
        whole = job(None, checkpoint=UUID(int=7), rewards=["shapes_verifier"])
        status, out = attempt(whole, "attempt", "--checkpoint", str(tmp_path))
        assert (status, failed(out)["code"]) == (1, "bad_config")
        assert "manifest.json" in failed(out)["detail"]

    def test_a_judge_of_another_benchmark(self, attempt: Attempt) -> None:
        judge = entry(DEAD, name="perception", kind="perception")
        status, out = attempt(job(judge))
        assert (status, failed(out)["code"]) == (1, "bad_config")
        assert "'perception' supports only the benchmark 'shapes-bench', not 'small'" in failed(out)["detail"]

    def test_no_job_at_all(self, tmp_path: Path, attempt: Attempt) -> None:
        whole = job(None, rewards=["shapes_verifier"])
        status, out = attempt(whole.model_copy(update={"benchmark": None}))
        assert (status, failed(out)["code"]) == (1, "bad_config")


class TestOrphaned:
    @pytest.fixture
    def held(self) -> threading.Event:
        """Set when the judge receives its eighth request."""
        return threading.Event()

    @pytest.fixture
    def server(self, serve: Serve, held: threading.Event) -> JudgeServer:
        def plan(asked: Asked) -> Reply:
            if asked.number < 7:
                return judged(asked)
            held.set()
            return Reply(hang=True)

        return serve(plan)

    def start(self, whole: EvaluationJob, out: Path, **options: Any) -> subprocess.Popen[bytes]:
        """The real child."""
        file = out.with_suffix(".json")
        file.write_text(whole.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-m", "worker.entrypoints.evaluate", str(file), "--out", str(out), "--device", "cpu"]
        threads = str(torch.get_num_threads())  # their number shows in the last bits of an image on some processors
        environment = {**os.environ, "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": threads, **options.pop("env", {})}
        return subprocess.Popen(command, env=environment, **options)

    def test_one_that_ends_with_its_parent_loses_nothing_but_what_was_in_flight(
        self, server: JudgeServer, held: threading.Event, attempt: Attempt, tmp_path: Path
    ) -> None:
        reading, writing = os.pipe()
        whole, out = job(entry(server.url), prompts=6), tmp_path / "orphan"
        with self.start(whole, out, env={PARENT_FD: str(reading)}, pass_fds=(reading,)) as child:
            os.close(reading)
            assert held.wait(180)
            os.close(writing)  # as a parent's death does; the child ends at once, as if it were killed
            assert child.wait(60) == 1
        assert events(out)[-1]["type"] not in ("finished", "failed")

        server.plan = judged
        in_flight = server.asked[7].body
        rest = go_on(whole, [out])
        assert len(rest.done) == 7
        shutil.copytree(out / "images", tmp_path / "again" / "images")
        status, again = attempt(rest, "again")
        assert (status, events(again)[-1]["step"]) == (0, 12)
        assert sorted(map(place_of, events(out, "answer") + events(again, "answer"))) == places(whole)
        twice = [asked.body for asked in server.asked if asked.again]
        assert twice == [in_flight]
        _, uninterrupted = attempt(whole, "uninterrupted")
        assert files(again) == files(uninterrupted)
