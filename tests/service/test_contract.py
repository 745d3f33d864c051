"""Every route against the OpenAPI document, by schemathesis: no 5xx, and every response as documented.

Four phases: the examples of the document; every bound of every field, kept and broken; generated requests, valid and
invalid; and sequences of operations, which schemathesis infers from schemas and Location headers. `make contract` runs
all of the second and many more of the last two phases, and prints how many.
"""

import itertools
import json
import logging
import os
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import schemathesis
from PIL import Image
from pydantic_core.core_schema import ErrorType
from safetensors.numpy import save
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.core.transport import Response
from schemathesis.engine import events, from_schema
from schemathesis.openapi.checks import UseAfterFree
from schemathesis.specs.openapi.checks import RejectedPositiveData

from service.api.curves.schemas import EXAMPLE_RUNS
from service.api.keys.schemas import KeySpec
from service.api.keys.service import add_key
from service.app import create_app
from service.auth.principal import Scope
from service.contracts.benchmarks.judging import Failure as Unreadable
from service.contracts.status import JobStatus
from service.db import events as run_events
from service.db.models import LogChunk, Run, Sample
from service.db.session import Database
from tests.service.unigenbench import benchmark, result_row, results_csv

WHOLE = "CONTRACT_EXAMPLES" in os.environ
"""Whether every bound of every field is tried, or a sample of them."""
EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", "2"))
"""Generated requests for each operation, and rounds of sequences."""
# Its fixture sends thousands of requests.
pytestmark = [pytest.mark.timeout(1200 * EXAMPLES if WHOLE else 1200), pytest.mark.long]
SEED = 42
SEQUENCES = 20
"""Of one round. A round is stopped by the first sequence that goes otherwise than before, for the rows are others."""
PHASES = ("examples", "coverage", "fuzzing", "stateful")
OF_FORM = frozenset(get_args(ErrorType)) - {"value_error", "string_too_short"}
"""Error types of pydantic itself; a schema has the same constraints, except that pydantic strips white space."""
GREATEST = str(2**63)[:-3]
"""First digits of the largest integers: FastAPI writes bounds as floats, and that of 2^63 - 1 is too large."""
WITHOUT_FAULT = ["2xx", "304", "404", "406", "409", "410", "416"]
"""Statuses of valid requests: the resource may not exist, or not in the requested form or state."""
LORA = save(
    {
        "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": np.zeros((4, 96), np.float32),
        "transformer.transformer_blocks.0.attn.to_q.lora_B.weight": np.zeros((96, 4), np.float32),
    }
)
PROMPTS = '{"prompt": "a red circle"}\n{"prompt": "a blue square"}\n'
"""JSON lines, and as plain text two prompts, too."""
RESULT = result_row(0, 0, (1, 0, 1))
GENERATION = {
    "model": "shapes-flux",
    "checkpoints": ["base"],
    "prompts": ["a red circle"],
    "num_images": 1,
    "width": 32,
    "height": 32,
}
SCORE = {"rewards": ["clip_score"], "generation": None}
FIRST, STEP = 20, 8
"""Unless all bounds are tried: the first 20 requests of an operation, then every eighth. `/runs` and `/plans`, whose
bodies are the same, have 1,500 each, and use different eighths."""
BOUNDS: Counter[str] = Counter()
"""Requests for bounds so far, by operation."""
KEPT: dict[str, dict[str, Any]] = {}
"""By operation, the path parameters of a row in a state that few rows are in, and that no other request is led to."""


@dataclass
class Rows:
    """A row of every noun, and runs in every kind of state: their ids by the path parameter's name."""

    ids: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, parameter: str, *rows: Any) -> None:
        self.ids[parameter] += [str(row.id) for row in rows]


@dataclass
class Campaign:
    """What came of the requests."""

    requests: Counter[str] = field(default_factory=Counter)
    """By phase."""
    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """By operation."""
    failures: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    """Reports by check and operation."""
    sequences: set[tuple[str, ...]] = field(default_factory=set)
    """The operations of each sequence that were accepted, from its first request to each later one."""

    def take(self, event: events.EngineEvent) -> None:
        if isinstance(event, events.FatalError):
            raise event.exception
        if isinstance(event, events.NonFatalError):
            self.failures["error", event.label].append(str(event.info))
        if not isinstance(event, events.ScenarioFinished):
            return
        recorder = event.recorder
        self.requests[event.phase.value] += len(recorder.interactions)
        accepted: dict[str, tuple[str, ...]] = {}
        for id, case in recorder.cases.items():
            if (response := recorder.find_response(case_id=id)) is not None:
                label = case.value.operation.label
                self.statuses[label][response.status_code] += 1
                if 200 <= response.status_code < 300:
                    accepted[id] = (*accepted.get(case.parent_id or "", ()), label)
        if event.phase.value == "stateful":
            self.sequences |= set(accepted.values())
        for checks in recorder.checks.values():
            for check in checks:
                if (info := check.failure_info) is not None:
                    report = f"{info.failure.title}\n{info.failure.message[:1500]}\n{info.code_sample[:1500]}"
                    self.failures[check.name, info.failure.operation].append(report)

    def told(self) -> str:
        """The failures, one of each kind in full."""
        return "\n\n".join(f"{check} {on}, {len(all)} times: {all[0]}" for (check, on), all in self.failures.items())


@pytest.fixture
def rows(database: Database, records: Any, tmp_path: Path) -> Rows:
    """What the generated requests ask about."""
    rows = Rows()
    # Two runs that no request can delete: one is held, something started from a checkpoint of the other.
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
        rows.add("sample_id", *_printed_and_drawn(database, run, tmp_path))
    # Enough of each that some can be resumed and deleted after all other requests.
    paused, ended, going = ([status] * 12 for status in (JobStatus.PAUSED, JobStatus.FAILED, JobStatus.RUNNING))
    for status in (JobStatus.QUEUED, *paused, *ended, *going):
        rows.add("run_id", records.run(status))
    for step in range(3):
        rows.add("checkpoint_id", records.checkpoint(finished, {"pytorch_lora_weights.safetensors": b"w"}, step=step))
    drawn = records.generation({**GENERATION, "guidance": 3.5}, JobStatus.SUCCEEDED)
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    records.image(drawn, 0, (tmp_path / "image.png").read_bytes())
    rows.add("generation_id", drawn, records.generation(GENERATION), records.generation(GENERATION, JobStatus.RUNNING))
    for status in (JobStatus.SUCCEEDED, JobStatus.CANCELLED, JobStatus.FAILED) * 4:
        rows.add("score_id", records.score(SCORE, status))
    for seed in range(12):
        rows.add("evaluation_id", judged := _judged(records, (tmp_path / "image.png").read_bytes(), seed=seed))
        rows.add("second_id", judged)
    rows.add("evaluation_id", records.evaluation(benchmark(), JobStatus.RUNNING))
    _keep(records, (tmp_path / "image.png").read_bytes(), sample=rows.ids["sample_id"][0])
    rows.ids["prompt_set"] += [records.prompt_set(f"set-{number}", ["a red circle"]).name for number in range(12)]
    with database.transaction() as session:
        for name in ("reader", "writer"):
            rows.add("key_id", add_key(session, KeySpec(name=name, scopes=(Scope.READ,))).row)
    return rows


def _keep(records: Any, png: bytes, sample: str) -> None:
    first, second, third = (_judged(records, png, seed=seed) for seed in (12, 13, 14))
    KEPT["compareEvaluations"] = {"evaluation_id": first.id, "second_id": second.id}
    KEPT["exportEvaluation"] = {"evaluation_id": first.id}
    KEPT["deleteEvaluation"] = {"evaluation_id": third.id}
    KEPT["listPrompts"] = {"name": records.prompt_set("listed", ["a red circle"]).name}
    KEPT["saveRun"] = {"run_id": records.run(JobStatus.RUNNING).id}
    KEPT["resumeRun"] = {"run_id": records.run(JobStatus.PAUSED).id}
    KEPT["deleteRun"] = {"run_id": records.run(JobStatus.FAILED).id}
    KEPT["getSampleImage"] = {"run_id": EXAMPLE_RUNS[0], "sample_id": sample}
    checkpoint = records.checkpoint(records.run(JobStatus.SUCCEEDED), {"pytorch_lora_weights.safetensors": b"w"})
    KEPT["deleteCheckpoint"] = {"checkpoint_id": checkpoint.id}
    KEPT["deleteScore"] = {"score_id": records.score(SCORE, JobStatus.FAILED).id}
    KEPT["deleteGeneration"] = {"generation_id": records.generation(GENERATION, JobStatus.FAILED).id}
    drawn = records.generation({**GENERATION, "guidance": 3.5}, JobStatus.SUCCEEDED)
    records.image(drawn, 0, png)
    KEPT["getGenerationGrid"] = {"generation_id": drawn.id}
    KEPT["getGenerationImage"] = {"generation_id": drawn.id, "number": 0}


def _judged(records: Any, png: bytes, seed: int) -> Any:
    prompts = [prompt for prompt in benchmark().prompts if prompt.index in (0, 3)]
    said = {(one.index, image_index): [seed % 2] * len(one.points) for one in prompts for image_index in (0, 1)}
    evaluation = records.evaluation(benchmark(), answers=said | {(3, 1): Unreadable.NO_SCORES}, seed=seed)
    for index, image_index in said:
        records.evaluation_image(evaluation, index, image_index, png, clip_score=0.5)
    return evaluation


def _printed_and_drawn(database: Database, run: Any, directory: Path) -> list[Sample]:
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


@pytest.fixture
def words(rows: Rows) -> dict[str, list[Any]]:
    """What to say more often than not, by parameter: generated words alone would meet nothing that is there."""
    return {
        **{f"path.{parameter}": ids for parameter, ids in rows.ids.items()},
        "path.name": ["pytorch_lora_weights.safetensors", "a/b.txt", *["unigenbench-en"] * 2, *rows.ids["prompt_set"]],
        "query.benchmark": ["unigenbench-en", "unigenbench-zh"],
        "query.dimension[*]": ["Style", "Attribute - Color"],
        "path.number": [0],
        "path.index": [0, 3],
        "path.image": [0, 1],
        "query.index": [0, 3],
        "query.index[*]": [0, 3],
        "query.with[*]": rows.ids["second_id"],
        "body.model": ["shapes-flux"],
        "query.model": ["shapes-flux"],
        "body.rewards[*]": ["clip_score", "shapes_verifier"],
        "body.checkpoints[*]": ["base", *rows.ids["checkpoint_id"]],
        "header.range": ["bytes=0-3", "bytes=-2", "bytes=99-"],
    }


@pytest.fixture
def key(database: Database) -> str:
    """A key that may ask for everything."""
    with database.transaction() as session:
        return add_key(session, KeySpec(name="contract", scopes=(Scope.ADMIN,), requests_per_minute=1_000_000)).secret


@pytest.fixture
def campaign(
    database: Database,
    words: dict[str, list[Any]],
    key: str,
    serve: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> Campaign:
    """All phases against a server whose waits and streams are short."""
    caplog.set_level(logging.CRITICAL, "service.audit")  # else a failure drowns in them
    short = {"max_wait_seconds": 0.05, "max_stream_seconds": 0.2, "max_open_jobs": 1_000_000}
    app = create_app(database.settings.model_copy(update=short))
    found = Campaign()
    with serve(app) as url:
        rounds = [PHASES[:-1], *[PHASES[-1:]] * EXAMPLES]
        for number, phases in enumerate(rounds):
            schema = schemathesis.openapi.from_dict(app.openapi(), config=_config(SEED + number, phases, words, key))
            schema.config.update(base_url=url)
            schema.hook("filter_failure")(_is_a_failure)
            for event in from_schema(schema).execute():
                found.take(event)
    with capsys.disabled():
        if WHOLE:
            print(*sorted(map(" -> ".join, found.sequences)), sep="\n")
            print("\n", dict(found.requests), found.requests.total(), "in all;", len(found.statuses), "operations")
    return found


def _config(seed: int, phases: Sequence[str], words: dict[str, list[Any]], key: str) -> SchemathesisConfig:
    return SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "headers": {"Authorization": f"Bearer {key}"},
            "continue-on-failure": True,
            "request-timeout": 30,
            "checks": {"positive_data_acceptance": {"expected-statuses": WITHOUT_FAULT}},
            "generation": {"max-examples": EXAMPLES, "no-shrink": True, "database": "none"},
            "phases": {
                **{name: {"enabled": name in phases} for name in PHASES},
                "stateful": {"enabled": "stateful" in phases, "generation": {"max-examples": SEQUENCES}},
            },
            "dictionaries": {name: {"values": values} for name, values in words.items()},
            "parameters": {name: {"dictionary": name, "probability": 0.7} for name in words},
        }
    )


@schemathesis.hook("filter_case")
def _sample(context: Any, case: schemathesis.Case) -> bool:
    """Whether it is sent: of the bounds of fields, a sample, unless all are asked for."""
    if WHOLE or case.meta is None or case.meta.phase.name != "coverage":
        return True
    label = case.operation.label
    BOUNDS[label] += 1
    return BOUNDS[label] <= FIRST or BOUNDS[label] % STEP == (4 if label == "POST /plans" else 0)


@schemathesis.hook("before_call")
def _send_a_file(context: Any, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Generated bytes are never a LoRA, nor a judge's results: in place of good ones, those of one."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    match case.operation.definition.raw["operationId"]:
        case "importCheckpoint":
            case.body = LORA
        case "createPromptSet":
            table = case.media_type == "text/csv"
            case.body = "prompt\na red circle\na blue square\n" if table else PROMPTS
        case "rescoreBenchmark":
            rows = {"text/csv": results_csv([RESULT]), "application/json": [RESULT]}
            case.body = rows.get(case.media_type or "", json.dumps(RESULT))


@schemathesis.serializer("application/x-ndjson", "application/jsonl")
def _json_lines(context: Any, value: Any) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "surrogatepass")


@schemathesis.hook("before_call")
def _compare_runs(context: Any, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Generated lists of ids never lead to runs: in place of good ones, those that do."""
    if _is_good(case) and case.operation.definition.raw["operationId"] == "compareCurves":
        ids = [EXAMPLE_RUNS[0], EXAMPLE_RUNS[1]]
        case.query |= {"run": ids[:1], "group": [f"both:{','.join(ids)}"], "metric": ["reward/*"]}


@schemathesis.hook("before_call")
def _meet_what_is_kept(context: Any, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Few rows are in the state that some operations ask for, and other requests take them out of it."""
    if _is_good(case) and (kept := KEPT.get(case.operation.definition.raw["operationId"])):
        case.path_parameters |= {parameter: str(value) for parameter, value in kept.items()}


def _is_good(case: schemathesis.Case) -> bool:
    """Whether it was generated to be accepted, and is no part of a sequence."""
    return case.meta is not None and case.meta.generation.mode.is_positive and case.meta.phase.name == "fuzzing"


def _is_a_failure(context: Any, failure: Failure, case: schemathesis.Case, response: Response) -> bool:
    """All failures, except rejections for rules that a schema cannot express, and intended ones."""
    headers = case.headers or {}
    if isinstance(failure, UseAfterFree):
        return not case.path.startswith(("/keys", "/checkpoints"))  # their records remain
    if isinstance(failure, AcceptedNegativeData):
        return "x-schemathesis-unknown-property" not in headers  # unknown headers are ignored
    return not (
        isinstance(failure, RejectedPositiveData) and ("null" in headers.values() or _by_a_rule(case, response))
    )


def _by_a_rule(case: schemathesis.Case, response: Response) -> bool:
    """Whether all that was wrong are words and numbers of the right form that do not fit the world, or each other."""
    problem = response.json()
    if problem["code"] == "idempotency_mismatch":
        return True
    wrong = problem.get("errors", [])
    if case.operation.definition.raw["operationId"] == "cloneRun":
        return all(one["loc"][0] == "body" for one in wrong)  # any part of a spec, which its schema leaves open
    parts = [one["loc"][:length] for one in wrong for length in range(1, len(one["loc"]))]
    emptied = [
        one for one in wrong if one["type"] == "too_short" and one["loc"] in parts
    ]  # its items are what is wrong
    return all(one["type"] not in OF_FORM or GREATEST in one["msg"] or one in emptied for one in wrong)


def test_every_answer_is_as_documented(campaign: Campaign) -> None:
    assert not campaign.failures, campaign.told()
    assert all(campaign.requests[phase] for phase in PHASES), campaign.requests
    # A contract is only held where something was asked for and had.
    refused = [operation for operation, seen in campaign.statuses.items() if not any(200 <= one < 300 for one in seen)]
    assert not refused
    # Sequences read, and change or delete, what a POST created or changed; which of the last two varies between runs.
    steps = {pair for sequence in campaign.sequences for pair in itertools.pairwise(sequence)}
    after_post = {then.split()[0] for first, then in steps if first.startswith("POST ")}
    assert "GET" in after_post and after_post & {"PATCH", "POST", "DELETE"}, sorted(steps)
