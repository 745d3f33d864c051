"""A real training worker whose runs execute the scripted child: `celery --app tests.faults.scripted_worker worker`.

`CLOCK_WRONG_BY` in the environment: seconds by which this process's time of day is wrong.
"""

import os
import sys
from pathlib import Path

from tests.faults import wrong_clock

if os.environ.get("CLOCK_WRONG_BY"):
    wrong_clock.move(float(os.environ["CLOCK_WRONG_BY"]))

# Set the clock first, because these modules read it when they are imported.
from worker import tasks
from worker.celery_app import app
from worker.jobs.registry import JOB_TYPES
from worker.jobs.training_run import RunJobType

PROGRAM = (sys.executable, "-S", str(Path(__file__).parents[1] / "worker" / "jobs" / "scripted_child.py"))

__all__ = ["app", "tasks"]

JOB_TYPES["run"] = RunJobType(PROGRAM)
