"""A generation that does not get on is ended with its process, which alone can end a thread that hangs in a device."""

import os
import subprocess
import sys
from pathlib import Path

from service.contracts.generations import GenerationSpec
from service.contracts.status import JobStatus
from service.db.models import Generation
from service.db.session import Database
from worker.serving import STUCK_EXIT

PROGRAM = """
import threading
from service.db.models import Generation
from service.db.session import connect
from worker.claims import claim_next
from worker.generation import generate
database = connect()
generate(database, claim_next(database, Generation, "worker:1"), threading.Event())
"""


def test_one_that_is_silent_for_too_long_fails_and_ends_its_worker(impatient: Database, tmp_path: Path) -> None:
    spec = GenerationSpec(prompts=("a small red circle on white",)).model_dump(mode="json")
    row = Generation(requested={}, spec=spec, spec_version=1)
    with impatient.transaction() as session:
        session.add(row)
    url = impatient.settings.database_url
    impatience = {"G2RPO_PROGRESS_TIMEOUT_SECONDS": "0.2"}  # loading torch and the model takes longer
    environment = {**os.environ, "G2RPO_DATABASE_URL": url, "G2RPO_DATA_DIR": str(tmp_path), **impatience}

    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, timeout=120, capture_output=True)

    assert done.returncode == STUCK_EXIT, done.stderr
    with impatient.transaction() as session:
        found = session.get_one(Generation, row.id)
    assert (found.status, found.lease_owner) == (JobStatus.FAILED, None)
    assert found.error is not None and found.error["code"] == "stuck"
