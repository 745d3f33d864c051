"""Reference results of the same specs without faults, computed in separate processes without a server."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.contracts.attempt_files import EVENTS_FILE
from service.contracts.evaluations import EvaluationEventLine, EvaluationJob, ImageAnswered, ImageGenerated
from service.contracts.events import EventLine, Finished, Metrics, RewardGroups, Sample
from tests.faults.system import SETTINGS
from worker.jobs.evaluation import evaluate_command
from worker.jobs.training_run import train_command

MetricKey = tuple[str, int]
GroupKey = tuple[int, int, int, int, str]
SampleKey = tuple[int, str, int]
Drawing = tuple[Mapping[str, Any], Mapping[str, Path | None]]
"""A resolved spec, and its checkpoints: name to directory, none for the base model."""
Drawn = tuple[list[str], list[list[float | None]]]
"""SHA-256 of each image, and for each image the value of each reward."""

_UNTOLD = ("name", "labels", "priority", "start_from")
"""Fields of a spec that do not affect the computed values."""


@dataclass(frozen=True)
class Reference:
    """Results of a reference run. A metric value is the last one written for its name and step."""

    directory: Path
    metrics: dict[MetricKey, float | None]
    groups: dict[GroupKey, tuple[str, list[float | None]]]
    samples: dict[SampleKey, str]
    heldout: dict[str, Any]

    def checkpoint(self, step: int) -> Path:
        """The directory of the run's checkpoint after `step` steps."""
        return self.directory / "checkpoints" / f"step-{step:06d}"


@dataclass(frozen=True)
class JudgedReference:
    """Images and answers of a reference evaluation by index and image_index, answers also by number."""

    images: dict[tuple[int, int], str]
    rewards: dict[tuple[int, int], dict[str, float | None]]
    answers: dict[tuple[int, int, int], tuple[int, ...]]


def timed(metric: str) -> bool:
    """Whether a metric measures the machine rather than the run."""
    return metric.startswith(("seconds/", "elapsed/seconds", "memory/"))


class References:
    """References by spec, each computed once, in `directory`. Threads may share it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._known: dict[str, Reference] = {}
        self._judged: dict[str, JudgedReference] = {}

    def of(self, spec: Mapping[str, Any], max_steps: int, start: Path | None = None) -> Reference:
        """The reference run of a resolved spec to `max_steps`, with optional initial weights in `start`."""
        plain = {name: value for name, value in spec.items() if name not in _UNTOLD}
        plain["training"] = {**plain["training"], "max_steps": max_steps}
        processes = plain["resources"]["processes_per_node"]
        plain["checkpoints"] = {"every": 1, "keep": None}  # so that every checkpoint has a reference
        text = json.dumps(plain, sort_keys=True)
        key = hashlib.sha256(f"{text} from {start}".encode()).hexdigest()[:16]
        with self._lock:
            if key not in self._known:
                self._known[key] = _read(self._run(text, self._directory / key, start, processes))
            return self._known[key]

    def _run(self, spec: str, directory: Path, start: Path | None, processes: int) -> Path:
        spec_file = directory.with_suffix(".json")
        spec_file.write_text(spec, encoding="utf-8")
        _execute([*train_command(spec_file, directory, start, processes=processes).argv, "--device", "cpu"])
        return directory

    def judged(self, job: EvaluationJob) -> JudgedReference:
        """The reference evaluation of a job without results."""
        text = job.model_copy(update={"spec": job.spec.model_copy(update={"name": ""})}).model_dump_json()
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        if key not in self._judged:
            directory = self._directory / key
            file = directory.with_suffix(".json")
            file.write_text(text, encoding="utf-8")
            _execute([*evaluate_command(file, directory, None).argv, "--device", "cpu"])
            self._judged[key] = _read_judged(directory)
        return self._judged[key]

    def images(self, drawings: Sequence[Drawing], rewards: Sequence[str]) -> list[Drawn]:
        """Reference generations and the scores of their images, from one process, in the order of the requests."""
        generations = [
            {"spec": dict(spec), "checkpoints": [(name, str(path) if path else None) for name, path in places.items()]}
            for spec, places in drawings
        ]
        request = {"drawings": generations, "rewards": list(rewards)}
        results = json.loads(_execute([sys.executable, "-m", "tests.faults.draw"], json.dumps(request)))
        return [(hashes, values) for hashes, values in results]


def _execute(command: list[str], stdin: str = "") -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": SETTINGS["OMP_NUM_THREADS"]}
    done = subprocess.run(command, input=stdin, env=environment, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        raise RuntimeError(f"{command} exited with {done.returncode}: {done.stderr[-3000:]}")
    return done.stdout


def _read(directory: Path) -> Reference:
    metrics: dict[MetricKey, float | None] = {}
    groups: dict[GroupKey, tuple[str, list[float | None]]] = {}
    samples: dict[SampleKey, str] = {}
    heldout: dict[str, Any] = {}
    for line in (directory / EVENTS_FILE).read_bytes().splitlines():
        match EventLine.validate_json(line):
            case Metrics() as message:
                metrics |= {(name, message.step): value for name, value in message.values.items() if not timed(name)}
            case RewardGroups() as message:
                for one in message.groups:
                    key = (message.step, one.prompt_index, one.sde_step, one.granularity, one.reward)
                    groups[key] = (one.prompt, one.values)
            case Sample() as message:
                samples[(message.step, message.kind, message.index)] = message.sha256
            case Finished() as message:
                heldout = {name: summary.model_dump(mode="json") for name, summary in message.heldout.items()}
    return Reference(directory, metrics, groups, samples, heldout)


def _read_judged(directory: Path) -> JudgedReference:
    found = JudgedReference({}, {}, {})
    for line in (directory / EVENTS_FILE).read_bytes().splitlines():
        match EvaluationEventLine.validate_json(line):
            case ImageGenerated() as message:
                found.images[message.index, message.image_index] = message.sha256
                found.rewards[message.index, message.image_index] = message.rewards
            case ImageAnswered() as message:
                found.answers[message.index, message.image_index, message.number] = message.scores or ()
    return found
