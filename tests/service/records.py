"""Rows and artifacts in the form that workers store them."""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select, text

from service.api.benchmarks.service import store
from service.contracts.attempt_files import MANIFEST_FILE
from service.contracts.benchmarks.data import Benchmark
from service.contracts.benchmarks.judge_answers import Failure
from service.contracts.catalog import JudgeEntry, load_catalog
from service.contracts.evaluations import EvaluationSpec
from service.contracts.plan import make_plan
from service.contracts.prompts import Counts, PromptLine
from service.contracts.runs import RunSpec
from service.contracts.status import JobStatus
from service.db.base import new_id
from service.db.evaluation_scores import score
from service.db.models import (
    Attempt,
    BenchmarkRow,
    Checkpoint,
    Evaluation,
    EvaluationAnswer,
    EvaluationImage,
    Generation,
    GenerationImage,
    PromptSet,
    RewardGroup,
    Run,
    Score,
)
from service.db.session import Database

_PATHS = {
    JobStatus.STARTING: (JobStatus.STARTING,),
    JobStatus.PAUSED: (JobStatus.STARTING, JobStatus.RUNNING, JobStatus.PAUSING, JobStatus.PAUSED),
}
SIZES = {"steps": 8, "guidance": 3.5, "width": 32, "height": 32}
PERCEPTION = JudgeEntry(name="perception", kind="perception")
_RUNNING_PATH = (JobStatus.STARTING, JobStatus.RUNNING)


@dataclass
class Records:
    """Creates rows and artifacts in the form that workers store them."""

    database: Database
    directory: Path

    def run(
        self, status: JobStatus | str = JobStatus.QUEUED, spec: dict[str, Any] | None = None, **columns: Any
    ) -> Run:
        """Create a run and move it to the status by allowed transitions."""
        resolved = RunSpec.model_validate(spec or {})
        plan = make_plan(resolved, load_catalog()).model_dump(mode="json", exclude={"spec"})
        values: dict[str, Any] = {
            "model": resolved.model,
            "algorithm": resolved.algorithm.name,
            "labels": dict(resolved.labels),
            "requested": spec or {},
            "spec": resolved.model_dump(mode="json"),
            "spec_version": 1,
            "plan": plan,
            "seed": resolved.training.seed,
            "max_steps": resolved.training.max_steps,
        }
        run = Run(**(values | columns))
        with self.database.transaction() as session:
            session.add(run)
            _move_to(run, JobStatus(status))
        return run

    def generation(self, spec: dict[str, Any], status: JobStatus = JobStatus.QUEUED) -> Generation:
        """Create a generation with the status."""
        row = Generation(requested=spec, spec=spec, spec_version=1)
        with self.database.transaction() as session:
            session.add(row)
            _move_to(row, status)
        return row

    def score(self, spec: dict[str, Any], status: JobStatus = JobStatus.QUEUED) -> Score:
        """Create a scoring job with the status and without images."""
        row = Score(requested=spec, spec=spec, spec_version=1, total_images=0)
        with self.database.transaction() as session:
            session.add(row)
            _move_to(row, status)
        return row

    def image(self, generation: Generation, number: int, png: bytes, **columns: Any) -> GenerationImage:
        """Store an image of a generation, with its row."""
        file = self.directory / f"{uuid.uuid4()}.png"
        file.write_bytes(png)
        stored = self.database.artifacts.put_file(file, f"generations/{generation.id}/{number}.png")
        values: dict[str, Any] = {"checkpoint": "base", "prompt_index": 0, "image_index": 0, "seed": 7}
        row = GenerationImage(
            generation_id=generation.id,
            number=number,
            key=stored.key,
            sha256=stored.sha256,
            size=stored.size,
            **(values | columns),
        )
        with self.database.transaction() as session:
            session.add(row)
        return row

    def evaluation(
        self,
        benchmark: Benchmark,
        status: JobStatus = JobStatus.SUCCEEDED,
        answers: Mapping[tuple[int, int], Sequence[int] | Failure] | None = None,
        checkpoint: Checkpoint | None = None,
        judge: JudgeEntry | None = PERCEPTION,
        **spec: Any,
    ) -> Evaluation:
        """Create an evaluation of all prompts of a benchmark, with the judge's answers by prompt and image index.

        An evaluation that succeeded has the scores of its answers.
        """
        source = "base" if checkpoint is None else checkpoint.id
        defaults = {"model": "shapes-flux", "benchmark": benchmark.name, "checkpoint": source, "num_images": 2} | SIZES
        resolved = EvaluationSpec.model_validate(defaults | {"judge": judge and judge.name} | spec)
        prompts = [prompt.index for prompt in benchmark.prompts][: resolved.limit]
        with self.database.transaction() as session:
            store(session, benchmark)
            stored = BenchmarkRow.name == benchmark.name, BenchmarkRow.content_sha256 == benchmark.content_sha256
            row = Evaluation(
                name=resolved.name,
                requested=spec,
                spec=resolved.model_dump(mode="json"),
                spec_version=1,
                model=resolved.model,
                checkpoint_id=checkpoint and checkpoint.id,
                benchmark_id=session.scalars(select(BenchmarkRow.id).where(*stored)).one(),
                judge=judge and judge.model_dump(mode="json"),
                prompts=prompts,
                total_images=len(prompts) * resolved.num_images,
            )
            session.add(row)
            _move_to(row, status)
        for (index, image_index), answer in (answers or {}).items():
            self.answer(row, index, image_index, answer)
        if judge and answers and status is JobStatus.SUCCEEDED:
            with self.database.transaction() as session:
                score(session, session.get_one(Evaluation, row.id))
        return row

    def answer(
        self,
        row: Evaluation,
        index: int,
        image_index: int,
        answer: Sequence[int] | Failure,
        number: int = 1,
        **columns: Any,
    ) -> None:
        """Add a judge's answer for an image: scores, or the reason why there are none."""
        failed = isinstance(answer, Failure)
        values: dict[str, Any] = {
            "scores": None if failed else list(answer),
            "failure": answer if failed else None,
            "text": "I cannot tell." if failed else f"<score>{list(answer)}</score>",
            "seconds": 0.5,
        } | ({"text": None} if answer is Failure.NO_ANSWER else {})
        key = {"evaluation_id": row.id, "index": index, "image_index": image_index, "number": number}
        with self.database.transaction() as session:
            session.add(EvaluationAnswer(**key, **(values | columns)))

    def evaluation_image(
        self, row: Evaluation, index: int, image_index: int, png: bytes, **rewards: float | None
    ) -> None:
        """Store an image of an evaluation, with its row."""
        file = self.directory / f"{uuid.uuid4()}.png"
        file.write_bytes(png)
        stored = self.database.artifacts.put_file(file, f"evaluations/{row.id}/{index}_{image_index}.png")
        key = {
            "evaluation_id": row.id,
            "index": index,
            "image_index": image_index,
            "seed": row.spec["seed"] + image_index,
        }
        file_columns = {"key": stored.key, "sha256": stored.sha256, "size": stored.size}
        with self.database.transaction() as session:
            session.add(EvaluationImage(**key, **file_columns, rewards=rewards))

    def metric(self, run: Run, name: str, values: Sequence[float | None], attempt: int = 1, first: int = 0) -> None:
        """Add a metric's value at each step, starting with step `first`."""
        steps = (
            "SELECT :run, :attempt, :name, :first + number - 1, value FROM unnest(CAST(:values AS double precision[]))"
        )
        statement = text(
            f"INSERT INTO metrics (run_id, attempt, name, step, value) {steps} WITH ORDINALITY AS given (value, number)"
        )
        parameters = {"run": run.id, "attempt": attempt, "name": name, "first": first, "values": list(values)}
        with self.database.transaction() as session:
            session.execute(statement, parameters)

    def reward_group(self, run: Run, values: list[float | None], **columns: Any) -> None:
        """Add the rewards of one group."""
        key: dict[str, Any] = {"step": 1, "prompt_index": 0, "sde_step": 0, "granularity": 1, "attempt": 1}
        texts = {"reward": "clip_score", "prompt": "a red circle"}
        with self.database.transaction() as session:
            session.add(RewardGroup(run_id=run.id, values=values, **(key | texts | columns)))

    def attempts(self, run: Run, count: int) -> None:
        """Add the run's first `count` attempts."""
        with self.database.transaction() as session:
            for number in range(1, count + 1):
                session.add(Attempt(run_id=run.id, number=number, worker="worker:1", max_steps=run.max_steps))

    def checkpoint(
        self, run: Run, files: dict[str, bytes], step: int = 20, deleted_at: datetime | None = None, **columns: Any
    ) -> Checkpoint:
        """Store a LoRA checkpoint with the files."""
        directory = self.directory / str(uuid.uuid4())
        for name, data in files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(data)
        values: dict[str, Any] = {"kind": "lora", "model": "shapes-flux", "architecture": "a" * 64}
        values |= columns
        manifest = {
            "format": 1,
            **values,
            "step": step,
            "lora_rank": 16,
            "lora_alpha": 16.0,
            "spec": run.spec,
            "files": [
                {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
                for name, data in files.items()
            ],
        }
        (directory / MANIFEST_FILE).write_text(json.dumps(manifest))
        key = f"runs/{run.id}/1/checkpoints/{step}"
        names = (*files, MANIFEST_FILE)
        stored = [self.database.artifacts.put_file(directory / name, f"{key}/{name}") for name in names]
        row = Checkpoint(
            run_id=run.id,
            attempt=1,
            step=step,
            manifest=manifest,
            key=key,
            deleted_at=deleted_at,
            size=sum(file.size for file in stored),
            **values,
        )
        with self.database.transaction() as session:
            session.add(row)
        return row

    def prompt_set(self, name: str, prompts: Sequence[str], **columns: Any) -> PromptSet:
        """Store an uploaded prompt set."""
        id = new_id()
        file = self.directory / f"{id}.jsonl"
        file.write_bytes(b"".join(PromptLine(prompt=prompt).written() for prompt in prompts))
        stored = self.database.artifacts.put_file(file, f"prompt-sets/{id}/prompts.jsonl")
        file_columns = {"key": stored.key, "sha256": stored.sha256, "size": stored.size, "prompts": len(prompts)}
        counts = Counts(lines=len(prompts), kept=len(prompts), duplicates=0, blank=0, unusable=0).model_dump()
        defaults: dict[str, Any] = {
            "description": "",
            "format": "text",
            "counts": counts,
            "split": None,
            **file_columns,
        }
        row = PromptSet(id=id, upload_id=id, name=name, **(defaults | columns))
        with self.database.transaction() as session:
            session.add(row)
        return row


def waits_for_a_lock(database: Database) -> bool:
    """Return whether a session waits for a lock of another session."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with database.sessions() as session:
        return bool(session.scalar(text(waiting)))


def _move_to(job: Run | Generation | Evaluation | Score, status: JobStatus) -> None:
    if job.status is None:
        job.status = JobStatus.QUEUED
    if status is JobStatus.QUEUED:
        return
    for step in _PATHS.get(status, (*_RUNNING_PATH, status)):
        if job.status is not step:
            job.move_to(step)
