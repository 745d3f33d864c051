"""Every route against the OpenAPI document, by schemathesis: no 5xx, and every response as documented.

Four phases: the examples of the document; every bound of every field, satisfied and violated; generated requests,
valid and invalid; and sequences of operations, which schemathesis infers from schemas and Location headers. `make
contract` runs the second phase completely and many more requests of the last two phases, and prints the counts.
"""

import itertools
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import schemathesis
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
from service.db.session import Database
from tests.service.contract_rows import RESERVED, create_rows
from tests.service.records import Records
from tests.service.unigenbench import result_row, results_csv

ALL_BOUNDS = "CONTRACT_EXAMPLES" in os.environ
"""Whether to test every bound of every field instead of a sample."""
EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", "2"))
"""Generated requests for each operation, and rounds of sequences."""
# Its fixture sends thousands of requests.
pytestmark = [pytest.mark.timeout(1200 * EXAMPLES if ALL_BOUNDS else 1200), pytest.mark.long]
SEED = 42
SEQUENCES = 20
"""Maximum number of sequences of a round. A sequence with a new result stops its round, because rows change."""
PHASES = ("examples", "coverage", "fuzzing", "stateful")
SCHEMA_ERRORS = frozenset(get_args(ErrorType)) - {"value_error", "string_too_short"}
"""Error types of pydantic itself; a schema has the same constraints, except that pydantic strips white space."""
MAX_INTEGER_PREFIX = str(2**63)[:-3]
"""First digits of the largest integers: FastAPI writes bounds as floats, which are too large for 2^63 - 1."""
VALID_STATUSES = ["2xx", "304", "404", "406", "409", "410", "416"]
"""Statuses of valid requests: the resource may not exist, or not in the requested form or state."""
LORA = save(
    {
        "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": np.zeros((4, 96), np.float32),
        "transformer.transformer_blocks.0.attn.to_q.lora_B.weight": np.zeros((96, 4), np.float32),
    }
)
PROMPTS = '{"prompt": "a red circle"}\n{"prompt": "a blue square"}\n'
"""Two prompts, as JSON lines and also as plain text."""
RESULT = result_row(0, 0, (1, 0, 1))
FIRST, STEP = 20, 8
"""Without ALL_BOUNDS, the first 20 requests of an operation are sent, then every eighth. `/runs` and `/plans` have the
same bodies and 1,500 requests each, so they use different eighths."""
BOUNDS: Counter[str] = Counter()
"""Requests for bounds so far, by operation."""


@dataclass
class Campaign:
    """Counts, failures and sequences of the requests."""

    requests: Counter[str] = field(default_factory=Counter)
    """By phase."""
    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """By operation."""
    failures: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    """Reports by check and operation."""
    sequences: set[tuple[str, ...]] = field(default_factory=set)
    """The operations of each sequence that were accepted, from its first request to each later one."""

    def record(self, event: events.EngineEvent) -> None:
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
                    text = f"{info.failure.title}\n{info.failure.message[:1500]}\n{info.code_sample[:1500]}"
                    self.failures[check.name, info.failure.operation].append(text)

    def report(self) -> str:
        """Describe the failures, with the first of each kind in full."""
        return "\n\n".join(
            f"{check} {operation}, {len(reports)} times: {reports[0]}"
            for (check, operation), reports in self.failures.items()
        )


@pytest.fixture
def values(database: Database, records: Records, tmp_path: Path) -> dict[str, list[Any]]:
    """Preferred values by parameter, because generated values alone would rarely address an existing row."""
    rows = create_rows(database, records, tmp_path)
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
    """An API key with the scope admin."""
    with database.transaction() as session:
        return add_key(session, KeySpec(name="contract", scopes=(Scope.ADMIN,), requests_per_minute=1_000_000)).secret


@pytest.fixture
def campaign(
    database: Database,
    values: dict[str, list[Any]],
    key: str,
    serve: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> Campaign:
    """All phases against a server with short waits and streams."""
    caplog.set_level(logging.CRITICAL, "service.audit")  # its log lines would hide a failure
    short = {"max_wait_seconds": 0.05, "max_stream_seconds": 0.2, "max_open_jobs": 1_000_000}
    app = create_app(database.settings.model_copy(update=short))
    result = Campaign()
    with serve(app) as url:
        rounds = [PHASES[:-1], *[PHASES[-1:]] * EXAMPLES]
        for number, phases in enumerate(rounds):
            schema = schemathesis.openapi.from_dict(app.openapi(), config=_config(SEED + number, phases, values, key))
            schema.config.update(base_url=url)
            schema.hook("filter_failure")(_is_a_failure)
            for event in from_schema(schema).execute():
                result.record(event)
    with capsys.disabled():
        if ALL_BOUNDS:
            print(*sorted(map(" -> ".join, result.sequences)), sep="\n")
            print("\n", dict(result.requests), result.requests.total(), "in total;", len(result.statuses), "operations")
    return result


def _config(seed: int, phases: Sequence[str], values: dict[str, list[Any]], key: str) -> SchemathesisConfig:
    return SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "headers": {"Authorization": f"Bearer {key}"},
            "continue-on-failure": True,
            "request-timeout": 30,
            "checks": {"positive_data_acceptance": {"expected-statuses": VALID_STATUSES}},
            "generation": {"max-examples": EXAMPLES, "no-shrink": True, "database": "none"},
            "phases": {
                **{name: {"enabled": name in phases} for name in PHASES},
                "stateful": {"enabled": "stateful" in phases, "generation": {"max-examples": SEQUENCES}},
            },
            "dictionaries": {name: {"values": preferred} for name, preferred in values.items()},
            "parameters": {name: {"dictionary": name, "probability": 0.7} for name in values},
        }
    )


@schemathesis.hook("filter_case")
def _select(context: Any, case: schemathesis.Case) -> bool:
    """Return whether to send a request: without ALL_BOUNDS, only a sample of those for bounds."""
    if ALL_BOUNDS or case.meta is None or case.meta.phase.name != "coverage":
        return True
    label = case.operation.label
    BOUNDS[label] += 1
    return BOUNDS[label] <= FIRST or BOUNDS[label] % STEP == (4 if label == "POST /plans" else 0)


@schemathesis.hook("before_call")
def _send_a_file(context: Any, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Replace valid bodies by a valid file, because generated bytes are never a LoRA or a judge's results."""
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
    """Replace valid queries by existing runs, because generated ids never belong to a run."""
    if _is_valid(case) and case.operation.definition.raw["operationId"] == "compareCurves":
        ids = [EXAMPLE_RUNS[0], EXAMPLE_RUNS[1]]
        case.query |= {"run": ids[:1], "group": [f"both:{','.join(ids)}"], "metric": ["reward/*"]}


@schemathesis.hook("before_call")
def _address_reserved_rows(context: Any, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Use reserved rows for operations that require a rare state, because other requests change the state."""
    if _is_valid(case) and (reserved := RESERVED.get(case.operation.definition.raw["operationId"])):
        case.path_parameters |= {parameter: str(value) for parameter, value in reserved.items()}


def _is_valid(case: schemathesis.Case) -> bool:
    """Return whether the request was generated as valid and is not part of a sequence."""
    return case.meta is not None and case.meta.generation.mode.is_positive and case.meta.phase.name == "fuzzing"


def _is_a_failure(context: Any, failure: Failure, case: schemathesis.Case, response: Response) -> bool:
    """Return whether a failure counts: not if it is intended or due to a rule that a schema cannot express."""
    headers = case.headers or {}
    if isinstance(failure, UseAfterFree):
        return not case.path.startswith(("/keys", "/checkpoints"))  # the rows of deleted checkpoints remain
    if isinstance(failure, AcceptedNegativeData):
        return "x-schemathesis-unknown-property" not in headers  # unknown headers are ignored
    return not (
        isinstance(failure, RejectedPositiveData) and ("null" in headers.values() or _violates_a_rule(case, response))
    )


def _violates_a_rule(case: schemathesis.Case, response: Response) -> bool:
    """Return whether all errors concern values that match the schema but not the data or another field."""
    problem = response.json()
    if problem["code"] == "idempotency_mismatch":
        return True
    errors = problem.get("errors", [])
    if case.operation.definition.raw["operationId"] == "cloneRun":
        return all(error["loc"][0] == "body" for error in errors)  # the schema leaves the parts of a spec open
    parts = [error["loc"][:length] for error in errors for length in range(1, len(error["loc"]))]
    # A list is too short after its invalid items were removed.
    emptied = [error for error in errors if error["type"] == "too_short" and error["loc"] in parts]
    return all(
        error["type"] not in SCHEMA_ERRORS or MAX_INTEGER_PREFIX in error["msg"] or error in emptied for error in errors
    )


def test_every_response_is_as_documented(campaign: Campaign) -> None:
    assert not campaign.failures, campaign.report()
    assert all(campaign.requests[phase] for phase in PHASES), campaign.requests
    # The contract of an operation is only tested if a request succeeded.
    without_success = [
        label for label, statuses in campaign.statuses.items() if not any(200 <= code < 300 for code in statuses)
    ]
    assert not without_success
    # Sequences read, and change or delete, rows that a POST created or changed; which of the last two varies.
    steps = {pair for sequence in campaign.sequences for pair in itertools.pairwise(sequence)}
    after_post = {second.split()[0] for first, second in steps if first.startswith("POST ")}
    assert "GET" in after_post and after_post & {"PATCH", "POST", "DELETE"}, sorted(steps)
