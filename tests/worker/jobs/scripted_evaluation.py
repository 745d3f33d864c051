"""A child process that replaces the evaluation engine and behaves as specified by the evaluation's name.

It uses only the standard library, so that it starts quickly. The judge accepts every test point except the first of
prompt 0.
"""

import argparse
import contextlib
import hashlib
import json
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("job", type=Path)
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--checkpoint", type=Path)
options = parser.parse_args()
out: Path = options.out
job = json.loads(options.job.read_text())
spec, behavior = job["spec"], job["spec"]["name"]
attempt = int(out.name.removeprefix("attempt-"))
done = {(one["index"], one["image_index"]) for one in job["done"]}
pending = {(one["index"], one["image_index"]): one["requests"] for one in job["pending"]}
total = len(job["benchmark"]["prompts"]) * spec["num_images"]


def end_with_parent() -> None:
    os.read(int(os.environ["G2RPO_PARENT_FD"]), 1)
    os._exit(1)


def say(type: str, **values: object) -> None:
    event = {"type": type, "time": datetime.now(UTC).isoformat(), **values}
    with (out / "events.jsonl").open("ab") as file:
        file.write(json.dumps(event).encode() + b"\n")


def image(index: int, image_index: int) -> Path:
    return out / "images" / f"{index}_{image_index}.png"


def draw(index: int, image_index: int) -> None:
    data = f"image {image_index} of prompt {index}".encode()
    image(index, image_index).write_bytes(data)
    spoils = behavior == "spoils" and attempt == 1
    sha256 = hashlib.sha256(b"other" if spoils else data).hexdigest()
    rewards = dict.fromkeys(spec["rewards"], index / 10)
    values = {"seed": spec["seed"] + image_index, "rewards": rewards, "sha256": sha256, "size": len(data)}
    say("image", index=index, image_index=image_index, **values)


def answer(index: int, image_index: int, points: int, asked: int) -> None:
    seen = image(index, image_index).read_text()
    assert seen == f"image {image_index} of prompt {index}"
    number, unread = asked + 1, behavior == "mumbles" and attempt == 1 and image_index == 1
    scores = None if unread else [int(index > 0 or place > 0) for place in range(points)]
    text = "hm\x00" if unread else f"<score>{scores}</score>"
    failure = "no_scores" if unread else None
    said = {"text": text, "scores": scores, "failure": failure, "seconds": 0.25}
    say("answer", index=index, image_index=image_index, number=number, **said)


def asked_to(action: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return bool(json.loads((out / "control.json").read_text())["action"] == action)
    return False


threading.Thread(target=end_with_parent, daemon=True).start()
print("the child started", flush=True)
say(
    "started", provenance={"device": "scripted", "done": sorted(done), "pending": sorted(pending)}, resumed_at=len(done)
)
finished = len(done)
for prompt in job["benchmark"]["prompts"]:
    for image_index in range(spec["num_images"]):
        name = (prompt["index"], image_index)
        if name in done:
            continue
        if not image(*name).exists():
            draw(*name)
        if behavior == "is-killed-once" and attempt == 1 and finished == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if behavior == "judge-goes" and attempt == 1 and finished == 3:
            say("failed", code="judge_failed", detail="judge j is away", hint="Resume it once the judge answers.")
            sys.exit(1)
        if job["judge"] is not None:
            answer(*name, len(prompt["points"]), pending.get(name, 0))
        finished += 1
        say("progress", step=finished, max_steps=total, phase="evaluation", eta_seconds=1.5)
        while behavior == "waits" and not asked_to("cancel"):
            time.sleep(0.01)
        if asked_to("cancel"):
            say("finished", outcome="cancelled", step=finished)
            sys.exit(0)
say("finished", outcome="succeeded", step=finished)
