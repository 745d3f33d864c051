"""Rows of every kind for the generated requests of the contract test, and their ids by path parameter."""

import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save

from service.api.curves.schemas import EXAMPLE_RUNS
from service.api.keys.schemas import KeySpec
from service.api.keys.service import add_key
from service.auth.principal import Scope
from service.contracts.benchmarks.judge_answers import Failure
from service.contracts.status import JobStatus
from service.db import events as run_events
from service.db.models import Evaluation, Run, Sample
from service.db.models.run import LogChunk
from service.db.session import Database
from tests.service.records import Records
from tests.service.unigenbench import benchmark

GENERATION = {
    "model": "shapes-flux",
    "checkpoints": ["base"],
    "prompts": ["a red circle"],
    "num_images": 1,
    "width": 32,
    "height": 32,
}
SCORE = {"rewards": ["clip_score"], "generation": None}
RESERVED: dict[str, dict[str, Any]] = {}
"""Path parameters, by operation id, of rows in a rare state that no other request addresses."""


@dataclass
class Rows:
    """Ids of rows of every kind, and of runs in every status, by path parameter."""

    ids: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, parameter: str, *rows: Any) -> None:
        self.ids[parameter] += [str(row.id) for row in rows]


def create_rows(database: Database, records: Records, directory: Path) -> Rows:
    """Create the rows that generated requests address."""
    rows = Rows()
    # No request can delete these two runs: a worker runs the first, another run starts from a checkpoint of the second.
    running = records.run(JobStatus.RUNNING, id=uuid.UUID(EXAMPLE_RUNS[0]))
    finished = records.run(JobStatus.SUCCEEDED, id=uuid.UUID(EXAMPLE_RUNS[1]))
    for run in (running, finished):
        rows.add("run_id", run)
        records.attempts(run, 1)
        records.metric(run, "reward/clip_score", [0.1, None, 0.3] * 20)
        records.metric(run, "heldout/clip_score", [0.5])
        records.metric(run, "elapsed/nfe", [100.0 * step for step in range(60)])
        for prompt in range(3):
            records.reward_group(run, [0.1, None, 0.3], prompt_index=prompt)
        checkpoint = records.checkpoint(run, {"pytorch_lora_weights.safetensors": b"weights", "a/b.txt": b"text"})
        rows.add("checkpoint_id", checkpoint)
        records.run(JobStatus.QUEUED, start_from=checkpoint.id)
        rows.add("sample_id", *_add_samples_and_log(database, run, directory))
    # Enough runs of each status for resuming and deleting some after all other requests.
    paused, failed, running_runs = ([status] * 12 for status in (JobStatus.PAUSED, JobStatus.FAILED, JobStatus.RUNNING))
    for status in (JobStatus.QUEUED, *paused, *failed, *running_runs):
        rows.add("run_id", records.run(status))
    for step in range(3):
        rows.add("checkpoint_id", records.checkpoint(finished, {"pytorch_lora_weights.safetensors": b"w"}, step=step))
    generation = records.generation({**GENERATION, "guidance": 3.5}, JobStatus.SUCCEEDED)
    Image.new("RGB", (32, 32)).save(directory / "image.png")
    records.image(generation, 0, (directory / "image.png").read_bytes())
    rows.add(
        "generation_id", generation, records.generation(GENERATION), records.generation(GENERATION, JobStatus.RUNNING)
    )
    for status in (JobStatus.SUCCEEDED, JobStatus.CANCELLED, JobStatus.FAILED) * 4:
        rows.add("score_id", records.score(SCORE, status))
    for seed in range(12):
        rows.add("evaluation_id", evaluation := _evaluation(records, (directory / "image.png").read_bytes(), seed=seed))
        rows.add("second_id", evaluation)
    rows.add("evaluation_id", records.evaluation(benchmark(), JobStatus.RUNNING))
    _reserve(records, (directory / "image.png").read_bytes(), sample=rows.ids["sample_id"][0])
    rows.ids["prompt_set"] += [records.prompt_set(f"set-{number}", ["a red circle"]).name for number in range(12)]
    with database.transaction() as session:
        for name in ("reader", "writer"):
            rows.add("key_id", add_key(session, KeySpec(name=name, scopes=(Scope.READ,))).row)
    return rows


def _reserve(records: Records, png: bytes, sample: str) -> None:
    first, second, third = (_evaluation(records, png, seed=seed) for seed in (12, 13, 14))
    RESERVED["compareEvaluations"] = {"evaluation_id": first.id, "second_id": second.id}
    RESERVED["exportEvaluation"] = {"evaluation_id": first.id}
    RESERVED["deleteEvaluation"] = {"evaluation_id": third.id}
    RESERVED["listPrompts"] = {"name": records.prompt_set("listed", ["a red circle"]).name}
    RESERVED["saveRun"] = {"run_id": records.run(JobStatus.RUNNING).id}
    RESERVED["resumeRun"] = {"run_id": records.run(JobStatus.PAUSED).id}
    RESERVED["deleteRun"] = {"run_id": records.run(JobStatus.FAILED).id}
    RESERVED["getSampleImage"] = {"run_id": EXAMPLE_RUNS[0], "sample_id": sample}
    checkpoint = records.checkpoint(records.run(JobStatus.SUCCEEDED), {"pytorch_lora_weights.safetensors": b"w"})
    RESERVED["deleteCheckpoint"] = {"checkpoint_id": checkpoint.id}
    layer = "transformer.transformer_blocks.0.attn.to_q"
    halves = {f"{layer}.lora_A.weight": np.ones((4, 96), "f4"), f"{layer}.lora_B.weight": np.ones((96, 4), "f4")}
    lora = records.checkpoint(records.run(JobStatus.SUCCEEDED), {"pytorch_lora_weights.safetensors": save(halves)})
    RESERVED["getKohyaLora"] = {"checkpoint_id": lora.id}
    RESERVED["deleteScore"] = {"score_id": records.score(SCORE, JobStatus.FAILED).id}
    RESERVED["deleteGeneration"] = {"generation_id": records.generation(GENERATION, JobStatus.FAILED).id}
    generation = records.generation({**GENERATION, "guidance": 3.5}, JobStatus.SUCCEEDED)
    records.image(generation, 0, png)
    RESERVED["getGenerationGrid"] = {"generation_id": generation.id}
    RESERVED["getGenerationImage"] = {"generation_id": generation.id, "number": 0}


def _evaluation(records: Records, png: bytes, seed: int) -> Evaluation:
    prompts = [prompt for prompt in benchmark().prompts if prompt.index in (0, 3)]
    answers = {
        (prompt.index, image_index): [seed % 2] * len(prompt.points) for prompt in prompts for image_index in (0, 1)
    }
    evaluation = records.evaluation(benchmark(), answers=answers | {(3, 1): Failure.NO_SCORES}, seed=seed)
    for index, image_index in answers:
        records.evaluation_image(evaluation, index, image_index, png, clip_score=0.5)
    return evaluation


def _add_samples_and_log(database: Database, run: Any, directory: Path) -> list[Sample]:
    file = directory / f"{run.id}.png"
    Image.new("RGB", (32, 32)).save(file)
    samples = []
    with database.transaction() as session:
        session.add(LogChunk(run_id=run.id, attempt=1, offset=0, data="step 1 of 60 · reward 0.68\n".encode()))
        run_events.record(session, Run, run.id, 1, "status", {"status": run.status})
        for index in range(3):
            stored = database.artifacts.put_file(file, f"runs/{run.id}/samples/{index}.png")
            sample = Sample(
                run_id=run.id,
                attempt=1,
                step=0,
                kind="heldout",
                index=index,
                prompt="a circle",
                rewards={"clip_score": 0.5},
                key=stored.key,
                sha256=stored.sha256,
                size=stored.size,
            )
            session.add(sample)
            samples.append(sample)
    return samples
