"""Evaluation attempts with the bundled model: images, events and provenance."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
import torch
from PIL import Image

from service.contracts.catalog import load_catalog
from service.contracts.evaluations import EvaluationEventLine, EvaluationJob
from service.contracts.generations import GenerationSpec
from tests.worker.engine.evaluation.conftest import Attempt, attempts_in
from tests.worker.engine.evaluation.judge_server import JudgeServer
from tests.worker.engine.evaluation.setting import (
    UNREACHABLE_URL,
    entry,
    events,
    failed,
    files,
    files_in_order,
    image_key,
    image_keys,
    job,
    pixels,
)
from tests.worker.engine.training.miniature import trainer
from worker.engine.inference.generator import Generator
from worker.engine.training.event_log import EventWriter
from worker.entrypoints.evaluate import build_evaluator


class TestWhole:
    """The exit status and files of one attempt at a complete job."""

    @pytest.fixture(scope="class")
    def completed(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EvaluationJob, int, Path]]:
        """The job, the exit status and the attempt's directory."""
        server = JudgeServer()
        whole = job(entry(server.url, concurrency=3), rewards=["clip_score", "shapes_verifier"])
        yield whole, *attempts_in(tmp_path_factory.mktemp("whole"))(whole)
        server.close()

    @pytest.fixture
    def whole(self, completed: tuple[EvaluationJob, int, Path]) -> EvaluationJob:
        return completed[0]

    @pytest.fixture
    def out(self, completed: tuple[EvaluationJob, int, Path]) -> Path:
        return completed[2]

    def test_every_image_is_generated_and_scored(self, completed: tuple[EvaluationJob, int, Path]) -> None:
        whole, status, out = completed
        assert status == 0
        drawn, answers = events(out, "image"), events(out, "answer")
        assert [image_key(event) for event in drawn] == image_keys(whole)
        assert sorted(map(image_key, answers)) == image_keys(whole)
        assert all(event["seed"] == whole.spec.seed + event["image_index"] for event in drawn)
        assert all(set(event["rewards"]) == {"clip_score", "shapes_verifier"} for event in drawn)
        assert all(None not in event["rewards"].values() for event in drawn)
        assert all((event["number"], event["scores"], event["failure"]) == (1, [1, 0, 1], None) for event in answers)
        finished = events(out)[-1]
        assert (finished["type"], finished["outcome"], finished["step"]) == ("finished", "succeeded", 6)

    def test_files_match_their_events(self, whole: EvaluationJob, out: Path) -> None:
        found = files(out)
        assert found.keys() == {f"{index}_{image_index}.png" for index, image_index in image_keys(whole)}
        for event in events(out, "image"):
            data = found[f"{event['index']}_{event['image_index']}.png"]
            assert (event["sha256"], event["size"]) == (hashlib.sha256(data).hexdigest(), len(data))

    def test_images_equal_those_of_a_generation(self, whole: EvaluationJob, out: Path) -> None:
        prompts = tuple(prompt.text for prompt in whole.benchmark.prompts)
        same = GenerationSpec(prompts=prompts, num_images=2, seed=whole.spec.seed, steps=2)
        drawn = list(Generator("cpu").generate(same, {"base": None}))
        assert [pixels(file) for file in files_in_order(whole, out)] == [pixels(image.png) for image in drawn]

    def test_image_metadata_describes_the_image(self, whole: EvaluationJob, out: Path) -> None:
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

    def test_events_follow_the_contract(self, out: Path) -> None:
        read = [EvaluationEventLine.validate_json(line) for line in (out / "events.jsonl").read_bytes().splitlines()]
        first, second, *others, last = [event.type for event in read]
        assert (first, second, last) == ("progress", "started", "finished")
        assert set(others) == {"image", "answer", "progress"}

    def test_provenance_names_weights_judge_and_benchmark(self, whole: EvaluationJob, out: Path) -> None:
        (started,) = events(out, "started")
        found = started["provenance"]
        assert found["weights"].keys() == {"shapes-flux", "clip_score"}  # the verifier has no weights
        assert found["judge"] == {"name": "tester", "kind": "openai", "identity": "Looker-1"}
        assert found["benchmark"]["content_sha256"] == whole.benchmark.content_sha256
        assert (found["device"], found["precision"]) == ("cpu", "float32")

    def test_progress_counts_finished_images(self, out: Path) -> None:
        first, *_, last = events(out, "progress")
        assert (first["phase"], first["step"], first["max_steps"]) == ("loading", 0, 6)
        assert (last["phase"], last["step"], last["eta_seconds"]) == ("evaluation", 6, 0.0)

    def test_failed_reward_is_null(self, attempt: Attempt, caplog: pytest.LogCaptureFixture) -> None:
        whole = job(None, rewards=["shapes_verifier", "clip_score"])
        first, *others = whole.benchmark.prompts
        strange = first.model_copy(update={"text": f"{first.text} {first.text}"})
        whole = whole.model_copy(
            update={"benchmark": whole.benchmark.model_copy(update={"prompts": (strange, *others)})}
        )
        _, out = attempt(whole)
        nothing = [image_key(event) for event in events(out, "image") if event["rewards"]["shapes_verifier"] is None]
        assert nothing == [(0, 0), (0, 1)]
        assert all(event["rewards"]["clip_score"] is not None for event in events(out, "image"))


class TestCheckpoint:
    def test_checkpoint_weights_generate_the_images(self, attempt: Attempt, tmp_path: Path) -> None:
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
        assert [pixels(file) for file in files_in_order(whole, out)] == [pixels(image.png) for image in drawn[:6]]
        assert [pixels(image.png) for image in drawn[:6]] != [pixels(image.png) for image in drawn[6:]]


class TestWrongJobs:
    def test_unknown_model_is_rejected(self, attempt: Attempt) -> None:
        status, out = attempt(job(None, model="dreamer", rewards=["shapes_verifier"]))
        assert (status, failed(out)["code"]) == (1, "bad_config")
        assert "dreamer" in failed(out)["detail"]

    def test_missing_checkpoint_argument_is_rejected(self, attempt: Attempt) -> None:
        status, out = attempt(job(None, checkpoint=UUID(int=7), rewards=["shapes_verifier"]))
        assert (status, failed(out)["code"]) == (1, "bad_config")
        assert "--checkpoint" in failed(out)["detail"]

    def test_invalid_checkpoint_is_rejected_before_a_device_is_used(self, tmp_path: Path) -> None:
        request, nowhere = job(None, checkpoint=UUID(int=7), rewards=["clip_score"]), torch.device("cuda")
        with pytest.raises(ValueError, match=r"is not a checkpoint"):
            build_evaluator(request, load_catalog(), EventWriter(tmp_path), nowhere, tmp_path)

    def test_directory_without_a_checkpoint_is_rejected(self, attempt: Attempt, tmp_path: Path) -> None:
        whole = job(None, checkpoint=UUID(int=7), rewards=["shapes_verifier"])
        status, out = attempt(whole, "attempt", "--checkpoint", str(tmp_path))
        assert (status, failed(out)["code"]) == (1, "bad_config")
        assert "manifest.json" in failed(out)["detail"]

    def test_judge_of_another_benchmark_is_rejected(self, attempt: Attempt) -> None:
        judge = entry(UNREACHABLE_URL, name="perception", kind="perception")
        status, out = attempt(job(judge))
        assert (status, failed(out)["code"]) == (1, "bad_config")
        assert "'perception' supports only the benchmark 'shapes-bench', not 'small'" in failed(out)["detail"]

    def test_job_without_a_benchmark_is_rejected(self, tmp_path: Path, attempt: Attempt) -> None:
        whole = job(None, rewards=["shapes_verifier"])
        status, out = attempt(whole.model_copy(update={"benchmark": None}))
        assert (status, failed(out)["code"]) == (1, "bad_config")
