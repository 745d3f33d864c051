"""A process that performs several runs in sequence: `python -m tests.worker.engine.training.in_turn JOBS.json`.

Loading torch takes longer than these runs do. A job is a run in float64 (`in_double`), or the arguments of the real
program and its number of threads. The processes initialize torch.distributed for each job, as if they had just
started. The first failing job ends the process in the same way as it ends the real program.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from tests.worker.engine.training.in_double import perform
from worker.engine.training.distributed import init_distributed
from worker.entrypoints import train
from worker.entrypoints.launcher import RENDEZVOUS, end_with_parent


def in_double(model: str, cases: list[dict[str, Any]]) -> int:
    """Perform runs in float64 in one process group."""
    distributed = init_distributed("cpu", os.environ[RENDEZVOUS])
    for case in cases:
        perform(Path(model), Path(case["directory"]), case["spec"], distributed, case.get("resume"))
    distributed.shut_down()
    return 0


def end(status: int) -> None:
    """Exit as `worker.entrypoints.train` does."""
    sys.stderr.flush()
    os._exit(status)  # a regular exit would wait for the other processes


if __name__ == "__main__":
    end_with_parent()
    place = os.environ[RENDEZVOUS]
    for number, job in enumerate(json.loads(Path(sys.argv[1]).read_text())):
        os.environ[RENDEZVOUS] = f"{place}-{number}"
        torch.set_num_threads(job.get("threads", 1))
        if status := in_double(job["model"], job["cases"]) if "cases" in job else train.main(job["arguments"]):
            end(status)
        PartialState._reset_state()
