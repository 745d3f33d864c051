"""An API on the test's database, and rows such as workers write them."""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import s3fs
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from service.api.benchmarks.service import store
from service.app import create_app
from service.contracts.benchmarks.data import Benchmark
from service.contracts.benchmarks.judging import Failure
from service.contracts.catalog import JudgeEntry, load_catalog
from service.contracts.evaluations import EvaluationSpec
from service.contracts.jobs import MANIFEST_FILE
from service.contracts.plan import make_plan
from service.contracts.prompts import Counts, PromptLine
from service.contracts.runs import RunSpec
from service.contracts.status import JobStatus
from service.core.settings import Settings
from service.db.artifacts import ArtifactStore
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
from tests.database_cleanup import empty

LOOPBACK = "http://127.0.0.1"
_WAY = {
    JobStatus.STARTING: (JobStatus.STARTING,),
    JobStatus.PAUSED: (JobStatus.STARTING, JobStatus.RUNNING, JobStatus.PAUSING, JobStatus.PAUSED),
}
SIZES = {"steps": 8, "guidance": 3.5, "width": 32, "height": 32}
PERCEPTION = JudgeEntry(name="perception", kind="perception")
_LED = (JobStatus.STARTING, JobStatus.RUNNING)


@pytest.fixture(scope="module")
def module_database(
    connections: Database, database_url: str, broker_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Database:
    """The session's database, emptied once for a module whose tests share a service and rows.

    No test of such a module asks for `database`, which empties it again.
    """
    empty(connections)
    settings = Settings(
        database_url=database_url,
        broker_url=broker_url,
        data_dir=tmp_path_factory.mktemp("data"),
        log_level="CRITICAL",
        max_wait_seconds=60,
        worker_timeout_seconds=60,
    )
    return dataclasses.replace(connections, settings=settings, artifacts=ArtifactStore(settings.artifacts_url))


@pytest.fixture
def app(database: Database) -> FastAPI:
    """The service on the emptied database."""
    return create_app(database.settings)


@contextlib.contextmanager
def _client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url=LOOPBACK, client=("127.0.0.1", 50000), raise_server_exceptions=False) as connected:
        yield connected


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client of the service, with its lifespan."""
    with _client(app) as connected:
        yield connected


@pytest.fixture(scope="module")
def module_client(module_database: Database) -> Iterator[TestClient]:
    """A client of a service that all tests of a module share, with its lifespan."""
    with _client(create_app(module_database.settings)) as connected:
        yield connected


class _Server(uvicorn.Server):
    """A server that looks every 20 ms, not every 100 ms, whether it has to stop: most tests start one."""

    async def main_loop(self) -> None:
        counter = 0
        while not await self.on_tick(counter):
            counter = (counter + 1) % 864000
            await asyncio.sleep(0.02)


@contextlib.contextmanager
def _served(app: FastAPI, port: int = 0) -> Iterator[str]:
    server = _Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"{LOOPBACK}:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def serve() -> Callable[..., contextlib.AbstractContextManager[str]]:
    """Serves an application on a socket, at the URL that it gives: streams need one."""
    return _served


@dataclass
class Records:
    """Writes what workers write."""

    database: Database
    directory: Path

    def run(
        self, status: JobStatus | str = JobStatus.QUEUED, spec: dict[str, Any] | None = None, **columns: Any
    ) -> Run:
        """A run in that state, led there by allowed moves."""
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
            _lead(run, JobStatus(status))
        return run

    def generation(self, spec: dict[str, Any], status: JobStatus = JobStatus.QUEUED) -> Generation:
        """A generation in that state."""
        row = Generation(requested=spec, spec=spec, spec_version=1)
        with self.database.transaction() as session:
            session.add(row)
            _lead(row, status)
        return row

    def score(self, spec: dict[str, Any], status: JobStatus = JobStatus.QUEUED) -> Score:
        """A scoring without images in that state."""
        row = Score(requested=spec, spec=spec, spec_version=1, total_images=0)
        with self.database.transaction() as session:
            session.add(row)
            _lead(row, status)
        return row

    def image(self, generation: Generation, number: int, png: bytes, **columns: Any) -> GenerationImage:
        """An image of a generation, in the store and in a row."""
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
        """An evaluation of all the benchmark's prompts in that state, with a judge's answers by index and image_index.

        Where it has succeeded, it has their scores, too.
        """
        drawn = "base" if checkpoint is None else checkpoint.id
        said = {"model": "shapes-flux", "benchmark": benchmark.name, "checkpoint": drawn, "num_images": 2} | SIZES
        resolved = EvaluationSpec.model_validate(said | {"judge": judge and judge.name} | spec)
        prompts = [prompt.index for prompt in benchmark.prompts][: resolved.limit]
        with self.database.transaction() as session:
            store(session, benchmark)
            kept = BenchmarkRow.name == benchmark.name, BenchmarkRow.content_sha256 == benchmark.content_sha256
            row = Evaluation(
                name=resolved.name,
                requested=spec,
                spec=resolved.model_dump(mode="json"),
                spec_version=1,
                model=resolved.model,
                checkpoint_id=checkpoint and checkpoint.id,
                benchmark_id=session.scalars(select(BenchmarkRow.id).where(*kept)).one(),
                judge=judge and judge.model_dump(mode="json"),
                prompts=prompts,
                total_images=len(prompts) * resolved.num_images,
            )
            session.add(row)
            _lead(row, status)
        for (index, image_index), said_of_it in (answers or {}).items():
            self.answer(row, index, image_index, said_of_it)
        if judge and answers and status is JobStatus.SUCCEEDED:
            with self.database.transaction() as session:
                score(session, session.get_one(Evaluation, row.id))
        return row

    def answer(
        self,
        row: Evaluation,
        index: int,
        image_index: int,
        said: Sequence[int] | Failure,
        number: int = 1,
        **columns: Any,
    ) -> None:
        """What a judge said of an image: scores, or why there are none."""
        failed = isinstance(said, Failure)
        values: dict[str, Any] = {
            "scores": None if failed else list(said),
            "failure": said if failed else None,
            "text": "I cannot tell." if failed else f"<score>{list(said)}</score>",
            "seconds": 0.5,
        } | ({"text": None} if said is Failure.NO_ANSWER else {})
        place = {"evaluation_id": row.id, "index": index, "image_index": image_index, "number": number}
        with self.database.transaction() as session:
            session.add(EvaluationAnswer(**place, **(values | columns)))

    def evaluation_image(
        self, row: Evaluation, index: int, image_index: int, png: bytes, **rewards: float | None
    ) -> None:
        """An image of an evaluation, in the store and in a row."""
        file = self.directory / f"{uuid.uuid4()}.png"
        file.write_bytes(png)
        stored = self.database.artifacts.put_file(file, f"evaluations/{row.id}/{index}_{image_index}.png")
        place = {
            "evaluation_id": row.id,
            "index": index,
            "image_index": image_index,
            "seed": row.spec["seed"] + image_index,
        }
        kept = {"key": stored.key, "sha256": stored.sha256, "size": stored.size}
        with self.database.transaction() as session:
            session.add(EvaluationImage(**place, **kept, rewards=rewards))

    def metric(self, run: Run, name: str, values: Sequence[float | None], attempt: int = 1, first: int = 0) -> None:
        """A metric's value at each step from `first` on."""
        steps = (
            "SELECT :run, :attempt, :name, :first + number - 1, value FROM unnest(CAST(:values AS double precision[]))"
        )
        statement = text(
            f"INSERT INTO metrics (run_id, attempt, name, step, value) {steps} WITH ORDINALITY AS given (value, number)"
        )
        told = {"run": run.id, "attempt": attempt, "name": name, "first": first, "values": list(values)}
        with self.database.transaction() as session:
            session.execute(statement, told)

    def reward_group(self, run: Run, values: list[float | None], **columns: Any) -> None:
        """The rewards of one group."""
        key: dict[str, Any] = {"step": 1, "prompt_index": 0, "sde_step": 0, "granularity": 1, "attempt": 1}
        texts = {"reward": "clip_score", "prompt": "a red circle"}
        with self.database.transaction() as session:
            session.add(RewardGroup(run_id=run.id, values=values, **(key | texts | columns)))

    def attempts(self, run: Run, count: int) -> None:
        """The run's first `count` attempts."""
        with self.database.transaction() as session:
            for number in range(1, count + 1):
                session.add(Attempt(run_id=run.id, number=number, worker="worker:1", max_steps=run.max_steps))

    def checkpoint(
        self, run: Run, files: dict[str, bytes], step: int = 20, deleted_at: datetime | None = None, **columns: Any
    ) -> Checkpoint:
        """A stored LoRA checkpoint with those files."""
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
        stored = self.database.artifacts.put_directory(directory, key)
        row = Checkpoint(
            run_id=run.id,
            attempt=1,
            step=step,
            manifest=manifest,
            key=key,
            deleted_at=deleted_at,
            size=sum(one.size for one in stored.values()),
            **values,
        )
        with self.database.transaction() as session:
            session.add(row)
        return row

    def prompt_set(self, name: str, prompts: Sequence[str], **columns: Any) -> PromptSet:
        """An uploaded prompt set."""
        id = new_id()
        file = self.directory / f"{id}.jsonl"
        file.write_bytes(b"".join(PromptLine(prompt=prompt).written() for prompt in prompts))
        stored = self.database.artifacts.put_file(file, f"prompt-sets/{id}/prompts.jsonl")
        kept = {"key": stored.key, "sha256": stored.sha256, "size": stored.size, "prompts": len(prompts)}
        counts = Counts(lines=len(prompts), kept=len(prompts), duplicates=0, blank=0, unusable=0).model_dump()
        said: dict[str, Any] = {"description": "", "format": "text", "counts": counts, "split": None, **kept}
        row = PromptSet(id=id, upload_id=id, name=name, **(said | columns))
        with self.database.transaction() as session:
            session.add(row)
        return row


def waits_for_a_lock(database: Database) -> bool:
    """Whether some session waits for what another one has locked."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with database.sessions() as session:
        return bool(session.scalar(text(waiting)))


def _lead(job: Run | Generation | Evaluation | Score, status: JobStatus) -> None:
    if job.status is None:
        job.status = JobStatus.QUEUED
    if status is JobStatus.QUEUED:
        return
    for step in _WAY.get(status, (*_LED, status)):
        if job.status is not step:
            job.move_to(step)


@pytest.fixture
def records(database: Database, tmp_path: Path) -> Records:
    """Rows and artifacts such as workers leave them."""
    return Records(database, tmp_path)


@pytest.fixture(scope="module")
def module_records(module_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Records:
    """Rows and artifacts that all tests of a module share."""
    return Records(module_database, tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="session")
def bucket() -> Iterator[dict[str, str]]:
    """A bucket of an S3 server on this machine: the environment variables that lead there, and the bucket's name."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("artifacts")
    yield {**environment, "BUCKET": "artifacts"}
    server.stop()


@pytest.fixture
def bucket_url(bucket: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty prefix in the bucket, which the environment's credentials open."""
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    return f"s3://{bucket['BUCKET']}/{uuid.uuid4()}"
