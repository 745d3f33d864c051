"""`python -m worker.entrypoints.launcher N DIR PROGRAM …`: run a program in N processes on this machine.

Each process gets torchrun's environment variables (RANK, WORLD_SIZE, …), so the program also works with torchrun. The
supervisor does not use torchrun for three reasons: torchrun starts each process in a new session, which survives the
supervisor's process group; it closes the pipe that signals the supervisor's death; and it exits with status 1 for any
failure. This launcher exits with the status or signal of the first process that fails.
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

from service.contracts.attempt_files import PARENT_FD
from service.contracts.events import Failed
from worker.engine.training.event_log import EventWriter

RENDEZVOUS = "G2RPO_RENDEZVOUS"
"""Environment variable that contains the `init_method` of the processes.

It is a file because another program could take a free port before it is used.
"""
FAILURE = "G2RPO_FAILURE_FILE"
"""Environment variable that contains the path to which a process writes its failure.

The launcher reports the failure of the process that failed first.
"""
GRACE_SECONDS = 3.0
"""Seconds that the other processes have to exit after one fails. Most of them fail for the same reason."""


def inherited_fds() -> tuple[int, ...]:
    """Return the file descriptors that child processes must inherit: the supervisor's pipe, if there is one."""
    descriptor = os.environ.get(PARENT_FD)
    return () if descriptor is None else (int(descriptor),)


def end_with_parent() -> None:
    """Start a thread that exits the process as soon as the supervisor's end of the pipe closes."""
    for descriptor in inherited_fds():

        def watch(descriptor: int = descriptor) -> None:
            os.read(descriptor, 1)
            os._exit(1)

        threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def main(arguments: Sequence[str]) -> int:
    """Run the program and return 0 if all processes succeed, otherwise the return code of the first that fails.

    The return code is negative if a signal ended the process.
    """
    count, directory, program = int(arguments[0]), Path(arguments[1]), arguments[2:]
    end_with_parent()
    if not inherited_fds():  # without a supervisor, the processes end with this one
        os.environ[PARENT_FD] = str(os.pipe()[0])
    directory.mkdir(parents=True, exist_ok=True)
    rendezvous = directory.absolute() / "rendezvous"
    rendezvous.unlink(missing_ok=True)
    processes = [_start(program, rank, count, directory, rendezvous) for rank in range(count)]
    failed = _wait(processes)
    rendezvous.unlink(missing_ok=True)
    if failed is None:
        return 0
    code = processes[failed].returncode
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
    sys.stderr.write(f"rank {failed} of {count} (process {processes[failed].pid}) {how}; the run ends\n")
    _write_failure(directory, failed)
    return code


def _start(
    program: Sequence[str], rank: int, count: int, directory: Path, rendezvous: Path
) -> "subprocess.Popen[bytes]":
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    environment = {
        # The processes' traffic is neither encrypted nor authenticated, so it must not leave the machine.
        **dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), loopback),
        **os.environ,
        **{name: str(number) for name, number in numbers.items()},
        RENDEZVOUS: rendezvous.as_uri(),
        FAILURE: str(_failure_file(directory, rank)),
    }
    return subprocess.Popen(program, env=environment, pass_fds=inherited_fds())


def _wait(processes: "Sequence[subprocess.Popen[bytes]]") -> int | None:
    """Wait for all processes and return the rank of the first that fails, or None if all succeed."""
    running = {process.pid: rank for rank, process in enumerate(processes)}
    failed: int | None = None
    while running:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # WNOWAIT leaves the status for Popen.wait
        assert ended is not None
        rank = running.pop(ended.si_pid)
        if processes[rank].wait() != 0 and failed is None:
            failed = rank
            timer = threading.Timer(GRACE_SECONDS, _kill, [running])
            timer.daemon = True
            timer.start()
    return failed


def _kill(running: dict[int, int]) -> None:
    for pid in list(running):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _write_failure(directory: Path, rank: int) -> None:
    """Write the failure of a process as the run's last event.

    Does nothing if the file is missing or incomplete, for example because the process was killed.
    """
    with contextlib.suppress(FileNotFoundError, ValidationError):
        failure = Failed.model_validate_json(_failure_file(directory, rank).read_bytes())
        events = EventWriter(directory)
        events.write(failure)
        events.close()


def _failure_file(directory: Path, rank: int) -> Path:
    return directory.absolute() / f"failure-{rank}.json"


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)
