"""Every route against the OpenAPI document, with generated requests: no 5xx, and each answer as documented."""

from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from service.app import create_app
from service.contracts.status import JobStatus
from service.db.session import Database
from service.keys.caller import Scope
from service.keys.schemas import KeySpec
from service.keys.service import make
from service.settings import Settings

EXCLUDED = [
    # Names must also be in the catalog and fit together, which a schema cannot say.
    positive_data_acceptance,
    # "3e-4" is taken for a number: that is what YAML 1.1 makes of 3e-4. What is refused has tests of its own.
    negative_data_rejection,
]
documented = create_app(Settings())
schema = schemathesis.openapi.from_dict(documented.openapi())
schema.app = documented  # calls stay in this process; each test gives the app that has a database


@dataclass(frozen=True)
class Asked:
    """An API, and the header that shows it a good key."""

    app: FastAPI
    headers: dict[str, str]


@pytest.fixture
def asked(database: Database, records: Any) -> Asked:
    """An API that holds a few rows, and waits for nobody."""
    run = records.run(JobStatus.SUCCEEDED)
    records.metric(run, "reward/clip_score", [0.1, None, 0.3])
    records.reward_group(run, [0.1, None, 0.3])
    records.checkpoint(run, {"pytorch_lora_weights.safetensors": b"weights"})
    with database.transaction() as session:
        key = make(session, KeySpec(name="contract", scopes=(Scope.ADMIN,)))
    app = create_app(database.settings.model_copy(update={"max_wait_seconds": 0.05, "max_stream_seconds": 0.05}))
    return Asked(app, {"Authorization": f"Bearer {key.secret}"})


@schema.parametrize()
@settings(max_examples=20, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_documented(case: schemathesis.Case, asked: Asked) -> None:
    case.call_and_validate(
        app=asked.app, base_url="http://g2rpo.example", headers=asked.headers, excluded_checks=EXCLUDED
    )
