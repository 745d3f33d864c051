"""A rank that has several runs in turn: `python -m tests.worker.engine.training.in_turn JOBS.json`.

Loading torch takes longer than these runs do. A job is a run in float64 (`in_double`), or the arguments of the real
program and the threads it computes on. The ranks meet anew for each, at a place of its own, as if they had just been
started. The first job that fails ends the rank as it ends the real program.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from tests.worker.engine.training.in_double import perform
from worker.engine.training.distributed import join
from worker.entrypoints import train
from worker.entrypoints.parent import end_with_parent
from worker.entrypoints.ranks import RENDEZVOUS


def in_double(model: str, cases: list[dict[str, Any]]) -> int:
    """Runs in float64 by ranks that meet once."""
    together = join("cpu", os.environ[RENDEZVOUS])
    for case in cases:
        perform(Path(model), Path(case["directory"]), case["spec"], together, case.get("resume"))
    together.leave()
    return 0


def end(status: int) -> None:
    """As `worker.entrypoints.train` ends where it is the program."""
    sys.stderr.flush()
    os._exit(status)  # an orderly end would wait for ranks that will not come


if __name__ == "__main__":
    end_with_parent()
    place = os.environ[RENDEZVOUS]
    for number, job in enumerate(json.loads(Path(sys.argv[1]).read_text())):
        os.environ[RENDEZVOUS] = f"{place}-{number}"
        torch.set_num_threads(job.get("threads", 1))
        if status := in_double(job["model"], job["cases"]) if "cases" in job else train.main(job["arguments"]):
            end(status)
        PartialState._reset_state()
