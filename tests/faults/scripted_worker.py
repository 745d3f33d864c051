"""A real training worker whose runs execute the scripted child: `celery --app tests.faults.scripted_worker worker`.

`CLOCK_WRONG_BY` in the environment: seconds by which this process's time of day is wrong.
"""

import os
import sys
from pathlib import Path
from typing import Any

from tests.faults import wrong_clock

if os.environ.get("CLOCK_WRONG_BY"):
    wrong_clock.move(float(os.environ["CLOCK_WRONG_BY"]))

# The clock first: these take it as they find it.
from service.db.models import Run
from worker import tasks
from worker.celery_app import app
from worker.jobs import supervisor
from worker.jobs.claim import claim_next
from worker.jobs.run import RunWork

PROGRAM = (sys.executable, "-S", str(Path(__file__).parents[1] / "worker" / "jobs" / "scripted_child.py"))

__all__ = ["app"]


def wake(*_: Any) -> None:
    """Take runs until none is claimable, as `worker.tasks` does, with another program."""
    while not tasks.stopping.is_set() and (claim := claim_next(tasks.database, Run, tasks.name)):
        supervisor.supervise(tasks.database, claim, tasks.stopping, RunWork(PROGRAM))


tasks.wake.run = wake
