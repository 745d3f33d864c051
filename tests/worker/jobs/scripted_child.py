"""A child process that replaces the training engine and behaves as specified by the run's name.

It uses only the standard library, so that it starts quickly.
"""

import argparse
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

PNG = b"\x89PNG\r\n\x1a\n scripted"

parser = argparse.ArgumentParser()
parser.add_argument("spec", type=Path)
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--start-from", type=Path)
parser.add_argument("--resume", type=Path)
options = parser.parse_args()
rank = int(os.environ.get("RANK", "0"))
out: Path = options.out
spec = json.loads(options.spec.read_text())
attempt = int(out.name.removeprefix("attempt-"))


def end_with_parent() -> None:
    os.read(int(os.environ["G2RPO_PARENT_FD"]), 1)
    os._exit(1)


def write(line: bytes) -> None:
    with (out / "events.jsonl").open("ab") as file:
        file.write(line)


def say(type: str, **values: object) -> None:
    event = {"type": type, "time": datetime.now(UTC).isoformat(), **values}
    write(json.dumps(event).encode() + b"\n")


def progress(step: int) -> None:
    say("progress", step=step, max_steps=3, phase="rollout", eta_seconds=1.5)


def metrics(step: int) -> None:
    say("metrics", step=step, values={"reward/clip_score": step / 10, "loss": None})


def groups(step: int) -> None:
    group = {"prompt": "a red circle", "prompt_index": 0, "sde_step": 0, "granularity": 1, "reward": "clip_score"}
    say("reward_groups", step=step, groups=[{**group, "values": [0.25, None, 0.75]}])


def sample(step: int, sha256: str | None = None) -> None:
    (out / "samples").mkdir(exist_ok=True)
    file = f"samples/{step}.png"
    (out / file).write_bytes(PNG)
    sha256 = sha256 or hashlib.sha256(PNG).hexdigest()
    values = {"kind": "heldout", "index": 0, "prompt": "a red circle", "rewards": {"clip_score": 0.5}}
    say("sample", step=step, file=file, sha256=sha256, size=len(PNG), **values)


def checkpoint(step: int, spoil: bool = False, request: int = 0, best: float | None = None) -> None:
    directory = out / "checkpoints" / f"step-{step:06d}"
    directory.mkdir(parents=True, exist_ok=True)
    weights = f"weights after {step} steps".encode()
    (directory / "lora.safetensors").write_bytes(b"spoiled" if spoil else weights)
    file = {"name": "lora.safetensors", "sha256": hashlib.sha256(weights).hexdigest(), "size": len(weights)}
    about = {"model": spec["model"], "architecture": "a" * 64, "kind": "lora", "step": step, "spec": spec}
    (directory / "manifest.json").write_text(json.dumps({"format": 1, **about, "files": [file]}))
    say("checkpoint", step=step, directory=f"checkpoints/{directory.name}", request=request, best=best)


def finish(outcome: str = "succeeded") -> None:
    summary = {"before": 0.5, "after": 0.75, "difference": 0.25, "interval95": [0.2, 0.3], "pairs": 8}
    say("finished", outcome=outcome, step=3, heldout={"clip_score": summary})
    sys.exit(0)


def work() -> None:
    for step in (1, 2, 3):
        progress(step)
        metrics(step)
        groups(step)
    sample(3)
    checkpoint(3)
    finish()


def wait_for_control(action: str) -> dict[str, object]:
    """The control file's content, once its action is `action`."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            control = json.loads((out / "control.json").read_text())
            if control["action"] == action:
                return control
        time.sleep(0.01)


def be_the_second_rank() -> None:
    """Behave like a rank other than 0 after rank 0 has written output."""
    while not (out / "events.jsonl").exists():
        time.sleep(0.01)
    if spec["name"] == "second-rank-is-killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if spec["name"] == "second-rank-fails":
        (out / "second.pid").write_text(str(os.getpid()))
        print("out of memory in the second rank", flush=True)
        event = {"type": "failed", "time": datetime.now(UTC).isoformat(), "code": "out_of_memory", "detail": "rank 1"}
        Path(os.environ["G2RPO_FAILURE_FILE"]).write_text(json.dumps(event))
        sys.exit(1)
    while spec["name"] == "hangs":
        time.sleep(1)


def fail_after_the_second_rank() -> None:
    """Fail like rank 0 after the other rank has exited."""
    while not (pid := (out / "second.pid").read_text() if (out / "second.pid").exists() else ""):
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(int(pid), 0)
            time.sleep(0.01)
    sys.exit(2)


threading.Thread(target=end_with_parent, daemon=True).start()
if rank > 0:
    be_the_second_rank()
    sys.exit(0)
out.mkdir(parents=True, exist_ok=True)
print("the child started", flush=True)
behavior = spec["name"]
if behavior == "is-silent":
    print("cannot continue: the disk is on fire", file=sys.stderr)
    sys.exit(3)
if behavior == "ignores-sigterm":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
read = Path(options.resume or options.start_from or os.devnull)
weights = (read / "lora.safetensors").read_text() if read.is_dir() else None
resumed = json.loads((read / "manifest.json").read_text())["step"] if options.resume else 0
if behavior != "loads-forever":
    say(
        "started",
        provenance={"device": "scripted", "process": os.getpid(), "group": os.getpgid(0), "weights": weights},
        resumed_at=resumed,
    )

match behavior:
    case "finishes":
        work()
    case "fails":
        progress(1)
        say("failed", code="not_finite", detail="the gradient was not finite", hint="Lower the learning rate.")
        sys.exit(1)
    case "writes-garbage":
        write(b'{"type": "metrics", "step": 1\n')
        write(b"\xff\xfe\x00 not even text\n")
        say(
            "sample", step=1, kind="heldout", index=1, prompt="x", rewards={}, file="../../../secret", sha256="", size=1
        )
        sample(2, sha256="0" * 64)
        checkpoint(2, spoil=True)
        work()
    case "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    case "is-killed-once":
        if attempt == 1:
            metrics(1)
            checkpoint(1)
            os.kill(os.getpid(), signal.SIGKILL)
        work()
    case "is-killed-always":
        os.kill(os.getpid(), signal.SIGKILL)
    case "second-rank-fails":
        progress(1)
        fail_after_the_second_rank()
    case "hangs" | "ignores-sigterm" | "second-rank-is-killed":
        progress(1)
        while True:
            time.sleep(1)
    case "cancels":
        progress(1)
        wait_for_control("cancel")
        finish("cancelled")
    case "pauses":
        progress(resumed + 1)
        metrics(resumed + 1)
        if resumed:
            finish()
        wait_for_control("pause")
        checkpoint(1)
        finish("paused")
    case "has-its-rewards-fail":
        progress(resumed + 1)
        if resumed:
            finish()
        checkpoint(1)
        cause = {"code": "rewards_failed", "detail": "reward 'x' failed", "hint": "Restart the server."}
        say("finished", outcome="paused", step=1, heldout={}, cause=cause)
        sys.exit(3)
    case "saves-when-asked":
        progress(1)
        asked = wait_for_control("checkpoint")
        checkpoint(1, request=asked["request"])
        wait_for_control("cancel")
        finish("cancelled")
    case "prints-too-much":
        longest = 0
        while (size := (out / "log.txt").stat().st_size) >= longest:
            longest = size
            print("a line of log" * 4000, flush=True)
            time.sleep(0.01)
        while (out / "log.txt").stat().st_size <= 100_000:  # the content that the test keeps; its end will be restored
            time.sleep(0.01)
        print("the last words", flush=True)
        say("failed", code="error", detail="too many words")
        sys.exit(1)
    case "ends-before-it-is-asked":
        checkpoint(3)
        wait_for_control("checkpoint")
        finish()
    case "uses-memory":
        held = b"a" * (200 * 2**20)
        while True:
            time.sleep(1)
    case "loads-forever":
        while True:
            time.sleep(1)
    case "keeps-three":
        for step in range(1, 7):
            checkpoint(step, best={1: 0.5, 2: 0.75}.get(step) if spec["checkpoints"]["best"] else None)
        finish()
    case "is-killed-after-each-checkpoint":
        checkpoint(attempt)
        if attempt < 6:
            os.kill(os.getpid(), signal.SIGKILL)
        finish()
    case "leaves-a-grandchild":
        other = subprocess.Popen(["sleep", "1000"])
        say("metrics", step=1, values={"grandchild": float(other.pid)})
        finish()
