"""`python -m worker.entrypoints.ranks N DIR PROGRAM …`: one run in N processes on this machine, which end together.

Each gets the environment that torchrun gives (RANK, WORLD_SIZE, …), and the program may be started by torchrun as well.
A supervisor starts this instead because torchrun's processes are sessions of their own, so that ending the group that
it is in leaves them, do not inherit the pipe by which they learn of their supervisor's death, and because it exits with
status 1 whatever ended them. This one ends as the first process to fail did.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from service.contracts.events import Failed
from service.contracts.jobs import PARENT_FD
from worker.engine.training.event_log import EventWriter
from worker.entrypoints.parent import end_with_parent, inherited

RENDEZVOUS = "G2RPO_RENDEZVOUS"
"""Environment variable: where the ranks find each other. A file: a port found free now may be taken a moment later."""
FAILURE = "G2RPO_FAILURE_FILE"
"""Environment variable: where a rank writes why it failed. Of several, which one is the cause is known only here."""
GRACE_SECONDS = 3.0
"""How long the others may take to end by themselves when one has failed: mostly they have all failed of one cause."""


def main(arguments: Sequence[str]) -> int:
    """0 when all ranks have ended well, else what the first that did not exited with: minus a signal that ended it."""
    count, directory, program = int(arguments[0]), Path(arguments[1]), arguments[2:]
    end_with_parent()
    if not inherited():  # nobody supervises: then this is the process that they end with
        os.environ[PARENT_FD] = str(os.pipe()[0])
    directory.mkdir(parents=True, exist_ok=True)
    rendezvous = directory.absolute() / "rendezvous"
    rendezvous.unlink(missing_ok=True)
    ranks = [_start(program, rank, count, directory, rendezvous) for rank in range(count)]
    failed = _first_failure(ranks)
    rendezvous.unlink(missing_ok=True)
    if failed is None:
        return 0
    code = ranks[failed].returncode
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
    sys.stderr.write(f"rank {failed} of {count} (process {ranks[failed].pid}) {how}; the run ends with it\n")
    _tell(directory, failed)
    return code


def _start(
    program: Sequence[str], rank: int, count: int, directory: Path, rendezvous: Path
) -> "subprocess.Popen[bytes]":
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    environment = {
        # On one machine they need no other network: what they speak is neither secret nor signed.
        **dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), _loopback()),
        **os.environ,
        **{name: str(number) for name, number in numbers.items()},
        RENDEZVOUS: rendezvous.as_uri(),
        FAILURE: str(_failure_file(directory, rank)),
    }
    return subprocess.Popen(program, env=environment, pass_fds=inherited())


def _first_failure(ranks: "Sequence[subprocess.Popen[bytes]]") -> int | None:
    """Wait until all ranks have ended; which one was the first to end otherwise than well."""
    running = {process.pid: number for number, process in enumerate(ranks)}
    failed: int | None = None
    while running:
        # Not taken off the system's list before Popen does it itself, which then knows how it ended.
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        number = running.pop(ended.si_pid)
        if ranks[number].wait() != 0 and failed is None:
            failed = number
            impatient = threading.Timer(GRACE_SECONDS, _kill, [running])
            impatient.daemon = True
            impatient.start()
    return failed


def _kill(running: dict[int, int]) -> None:
    for pid in list(running):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _tell(directory: Path, rank: int) -> None:
    """Write why the rank failed, if it has said so, as the run's last event."""
    try:
        failure = Failed.model_validate_json(_failure_file(directory, rank).read_bytes())
    except (FileNotFoundError, ValidationError):
        return  # it was killed, perhaps while it wrote
    events = EventWriter(directory)
    events.write(failure)
    events.close()


def _failure_file(directory: Path, rank: int) -> Path:
    return directory.absolute() / f"failure-{rank}.json"


def _loopback() -> str:
    """The name of the interface that leads nowhere else."""
    return next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)
