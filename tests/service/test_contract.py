"""Every route against the OpenAPI document, with generated requests: no 5xx, and each answer as documented."""

from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from starlette.types import Receive, Scope, Send

from service.app import create_app
from service.contracts.status import JobStatus
from service.db.session import Database
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


class FromThisMachine:
    """The application, asked from a loopback address: schemathesis names its own host otherwise."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, "client": ("127.0.0.1", 50000)}, receive, send)


@pytest.fixture
def asked(database: Database, records: Any) -> FromThisMachine:
    """An API that holds a few rows, and waits for nobody."""
    run = records.run(JobStatus.SUCCEEDED)
    records.metric(run, "reward/clip_score", [0.1, None, 0.3])
    records.reward_group(run, [0.1, None, 0.3])
    records.checkpoint(run, {"pytorch_lora_weights.safetensors": b"weights"})
    return FromThisMachine(create_app(database.settings.model_copy(update={"max_wait_seconds": 0.05})))


@schema.parametrize()
@settings(max_examples=20, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_documented(case: schemathesis.Case, asked: FromThisMachine) -> None:
    case.call_and_validate(app=asked, base_url="http://127.0.0.1", excluded_checks=EXCLUDED)
