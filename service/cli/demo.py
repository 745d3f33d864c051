"""`g2rpo demo`: start the whole service, align the bundled model, and measure the effect of the run."""

import json
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from service.api.generations.schemas import GenerationView
from service.api.runs.schemas import RunView
from service.cli import console
from service.cli.watch import watch
from service.client import ApiError, Client
from service.contracts.plan import Plan
from service.contracts.runs import RunSpec
from service.contracts.status import TERMINAL, JobStatus
from service.local.stack import Stack
from service.local.up import Interrupted, interruptible

PROMPTS, IMAGES, GENERATION_SEED = 6, 2, 1000
LABEL = {"g2rpo": "demo"}
_GENERATION_SECONDS = 300.0
_REFRESH_SECONDS = 3.0
"""Minimum seconds between progress updates. Rendering takes processor time from the run on the same cores."""
_MEMORY_SECONDS = 10.0
"""Seconds between memory measurements. For each, the kernel walks all page tables, which slows down the run."""
_PACKAGES = (
    "g2rpo",
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "numpy",
    "fastapi",
    "celery",
    "sqlalchemy",
    "psycopg",
)
_CURVES = ("heldout/*", "anchor/*", "reward/*")
_NFE_PARTS = {"anchor": "rollout", "continuation": "rollout", "heldout": "heldout", "update": "update"}


class DemoFailed(Exception):
    """A job did not succeed. Its error has already been printed."""


@contextmanager
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Record the wall-clock time of the block in `seconds[phase]`."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[phase] = round(time.perf_counter() - start, 2)


def _processor_seconds(pid: int | None = None) -> tuple[float, float]:
    """Return the CPU seconds used by a process (default: this one), and by its descendants that have ended."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system, times.children_user + times.children_system


@contextmanager
def _memory_samples() -> Iterator[list[int]]:
    """Sample the memory of this process and its descendants, in bytes, every ten seconds while the block runs.

    Shared pages are counted proportionally (PSS), so that they are not counted more than once.
    """
    samples: list[int] = []
    ended = threading.Event()

    def sample() -> None:
        process = psutil.Process()
        while True:
            samples.append(sum(map(_proportional_bytes, [process, *process.children(recursive=True)])))
            if ended.wait(_MEMORY_SECONDS):
                return

    thread = threading.Thread(target=sample, name="memory", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def _proportional_bytes(process: psutil.Process) -> int:
    """Return the PSS of a process in bytes, or 0 if it has ended or belongs to another user."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def run(spec: Mapping[str, Any], out: Path, data: Path) -> int:
    """Run the demo, write its figures and report.json to `out`, and return the exit status."""
    out.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    before = sum(_processor_seconds())
    stack = Stack(data, port=0, report=lambda line: console.print_line(line, "dim"))
    try:
        with timed(seconds, "total"), interruptible(), _memory_samples() as samples:
            with timed(seconds, "start"):
                stack.__enter__()
            try:
                with Client(stack.url) as client:
                    report = demonstrate(client, spec, out, seconds)
                # The training process is the only child of this worker.
                training = _processor_seconds(stack.processes["worker-train"])[1]
            finally:
                with timed(seconds, "stop"):
                    stack.stop()
    except DemoFailed:
        console.print_line(f"The demo failed; see the logs in {stack.logs}", "red")
        return 1
    except Interrupted:
        return 130
    except ApiError as error:
        raise stack.failure or error from None
    # All processes have ended and been waited for, so this process's usage includes that of every descendant.
    outside = sum(_processor_seconds()) - before - training
    report |= {
        "seconds": seconds,
        "processor_seconds": {"child": round(training, 2), "outside": round(outside, 2)},
        "peak_memory_bytes": max(samples, default=0),
        "versions": _versions(),
        "machine": {"platform": platform.platform(), "cores": len(os.sched_getaffinity(0))},
    }
    (out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    _print(report, out)
    return 0


def demonstrate(client: Client, spec: Mapping[str, Any], out: Path, seconds: dict[str, float]) -> dict[str, Any]:
    """Run the demo on the service that `client` is connected to, and return the report.

    Writes the figures to `out`. Raises DemoFailed if a job does not succeed.
    """
    console.print_line(f"the service is ready at {client.url}")
    _cancel_leftovers(client)
    spec = {**spec, "labels": {**spec.get("labels", {}), **LABEL}}
    plan = client.plan(spec)
    console.print_line(f"aligning by G²RPO: {plan.total_nfe} NFE planned")
    with timed(seconds, "run"):
        aligned = watch(client, client.create_run(spec), console.stdout, _REFRESH_SECONDS)
    _require_success("run", aligned)
    with timed(seconds, "generate"):
        generation = _generate(client, aligned)
    with timed(seconds, "figures"):
        (out / "curves.png").write_bytes(client.curves_as(aligned.id, "image/png", _CURVES))
        (out / "before_after.png").write_bytes(client.grid(generation.id))
        curves = client.curves(aligned.id, _CURVES).curves
        counted = _counted(client, aligned)
    resolved = RunSpec.model_validate(aligned.spec)
    return {
        "run": str(aligned.id),
        "attempts": aligned.attempt,
        "seeds": {
            "training": resolved.training.seed,
            "sampler": resolved.training.sampler_seed,
            "heldout": resolved.heldout.seed,
            "generation": GENERATION_SEED,
        },
        "heldout": {name: change.model_dump(mode="json") for name, change in (aligned.heldout or {}).items()},
        "nfe": {"planned": _planned(plan), "counted": counted},
        "curves": {curve.name: {"steps": curve.steps, "values": curve.values} for curve in curves},
        "prompts": generation.spec["prompts"],
        "checkpoint": generation.spec["checkpoints"][-1],
        "spec": aligned.spec,
    }


def _cancel_leftovers(client: Client) -> None:
    """Cancel runs left by an interrupted demo on the same data, which would otherwise start before the new run."""
    unfinished = [status for status in JobStatus if status not in TERMINAL]
    for leftover in client.runs(status=unfinished, label=[f"{key}:{value}" for key, value in LABEL.items()]):
        client.cancel(leftover.id)


def _require_success(kind: str, job: RunView | GenerationView) -> None:
    if job.status is not JobStatus.SUCCEEDED:
        console.print_line(f"{kind} {job.id} is {job.status}", "red")
        console.print_error(job)
        raise DemoFailed


def _generate(client: Client, aligned: RunView) -> GenerationView:
    """Generate images with the base model and the last checkpoint, from the same prompts and initial noise."""
    final = next(client.checkpoints(aligned.id))
    heldout = dict.fromkeys(sample.prompt for sample in client.samples(aligned.id, kind="heldout"))
    spec = {
        "model": aligned.model,
        "checkpoints": ["base", str(final.id)],
        "prompts": list(heldout)[:PROMPTS] or ["a red circle"],
        "num_images": IMAGES,
        "seed": GENERATION_SEED,
    }
    generation = client.generate(spec, wait=_GENERATION_SECONDS)
    _require_success("generation", generation)
    return generation


def _planned(plan: Plan) -> dict[str, int]:
    steps = plan.spec.training.max_steps
    return {"rollout": plan.per_step_nfe * steps, "heldout": plan.heldout_nfe, "update": plan.per_step_updates * steps}


def _counted(client: Client, aligned: RunView) -> dict[str, int]:
    """Return the NFE that the engine counted over all steps, for each part of a run."""
    names = [f"nfe/{part}" for part in _NFE_PARTS]
    counted = dict.fromkeys(_NFE_PARTS.values(), 0)
    for curve in client.curves(aligned.id, names, max_points=10_000).curves:
        counted[_NFE_PARTS[curve.name.removeprefix("nfe/")]] += round(sum(value or 0 for value in curve.values))
    return counted


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _print(report: Mapping[str, Any], out: Path) -> None:
    console.print_heldout(report["heldout"])
    seconds, processors = report["seconds"], report["processor_seconds"]
    planned, counted = (sum(report["nfe"][kind].values()) for kind in ("planned", "counted"))
    phases = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items() if name != "total")
    console.print_line(
        f"NFE: {counted} counted, {planned} planned\n"
        f"seconds: {seconds['total']:.0f} ({phases})\n"
        f"processor seconds: {processors['child']:.0f} training, {processors['outside']:.0f} in other processes\n"
        f"peak memory: {report['peak_memory_bytes'] / 2**20:.0f} MiB\n"
        f"see {out / 'curves.png'}, {out / 'before_after.png'}, {out / 'report.json'}"
    )
