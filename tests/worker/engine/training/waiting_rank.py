"""A rank that waits for the others indefinitely: `python -m tests.worker.engine.training.waiting_rank DIR`.

The rank writes its process id to `DIR/rank-N`. Rank 0 first reports a failure, like a rank whose peer has exited.
"""

import os
import signal
import sys
from pathlib import Path

from service.contracts.events import Failed
from worker.entrypoints.launcher import FAILURE, end_with_parent

if __name__ == "__main__":
    end_with_parent()
    directory, rank = Path(sys.argv[1]), os.environ["RANK"]
    if rank == "0":
        failure = Failed(code="error", detail="the connection was closed by the peer", hint="")
        Path(os.environ[FAILURE]).write_text(failure.model_dump_json())
    (directory / f"new-{rank}").write_text(str(os.getpid()))
    (directory / f"new-{rank}").rename(directory / f"rank-{rank}")
    while True:
        signal.pause()
