"""Generations in the worker's process: stuck and cancelled generations end."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sqlalchemy import select

from service.api.jobs import cancel_job
from service.contracts.catalog import ModelEntry
from service.contracts.generations import GenerationSpec
from service.contracts.status import JobStatus
from service.db.models import Generation, GenerationImage
from service.db.session import Database
from worker.engine import models
from worker.engine.inference.generator import Generator
from worker.engine.inference.model_cache import ModelCache
from worker.engine.models import FlowModel
from worker.jobs import generation
from worker.jobs.claim import claim_next
from worker.jobs.generation import GenerationJobType
from worker.jobs.in_process import STUCK_EXIT
from worker.jobs.job_runner import run_job
from worker.monitoring.stats import STATS

PROGRAM = """
import threading
from service.db.session import connect
from worker.jobs.claim import claim_next
from worker.jobs.generation import GenerationJobType
from worker.jobs.job_runner import run_job
database = connect()
run_job(database, claim_next(database, GenerationJobType(), "worker:1"), threading.Event())
"""


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ({"G2RPO_PROGRESS_TIMEOUT_SECONDS": "0.2"}, "stuck"),  # loading torch and the model takes longer
        ({"G2RPO_WORKER_MEMORY_BYTES": "100000000"}, "out_of_memory"),
    ],
)
def test_generation_beyond_a_limit_fails_and_ends_its_worker(
    impatient: Database, tmp_path: Path, limit: dict[str, str], code: str
) -> None:
    spec = GenerationSpec(prompts=("a small red circle on white",)).model_dump(mode="json")
    row = Generation(requested={}, spec=spec, spec_version=1)
    with impatient.transaction() as session:
        session.add(row)
    url = impatient.settings.database_url
    environment = {**os.environ, "G2RPO_DATABASE_URL": url, "G2RPO_DATA_DIR": str(tmp_path), **limit}

    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, timeout=120, capture_output=True)

    assert done.returncode == STUCK_EXIT, done.stderr
    with impatient.transaction() as session:
        found = session.get_one(Generation, row.id)
    assert (found.status, found.lease_owner) == (JobStatus.FAILED, None)
    assert found.error is not None and found.error["code"] == code


def test_generation_cancelled_while_loading_ends_immediately(
    impatient: Database, eventually: Callable[[Callable[[], object]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = GenerationSpec(prompts=("a small red circle on white",)).model_dump(mode="json")
    with impatient.transaction() as session:
        session.add(row := Generation(requested={}, spec=spec, spec_version=1))
    family = models.FAMILIES["flux"]

    def now() -> JobStatus:
        with impatient.transaction() as session:
            return session.get_one(Generation, row.id).status

    class LoadsForLong:
        @classmethod
        def load(cls, entry: ModelEntry, device: torch.device, dtype: torch.dtype) -> FlowModel:
            with impatient.transaction() as session:
                cancel_job(session, Generation, row.id)
            eventually(lambda: now() is JobStatus.CANCELLED)
            eventually(lambda: not any(thread.name.startswith("lease-") for thread in threading.enumerate()))
            return family.load(entry, device, dtype)

    monkeypatch.setitem(models.FAMILIES, "flux", LoadsForLong)
    monkeypatch.setattr(generation, "_generator", lambda: Generator("cpu", ModelCache()))
    before = STATS.snapshot()
    claim = claim_next(impatient, GenerationJobType(), "worker:1")
    assert claim is not None

    run_job(impatient, claim, threading.Event())

    with impatient.transaction() as session:
        ended = session.get_one(Generation, row.id)
        assert (ended.status, ended.error, ended.lease_owner) == (JobStatus.CANCELLED, None, None)
        assert not session.scalars(select(GenerationImage)).all()
    after = STATS.snapshot()
    assert after.get("leases_lost", 0) == before.get("leases_lost", 0)
    assert after["jobs.cancelled"] == before.get("jobs.cancelled", 0) + 1
