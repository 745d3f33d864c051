"""`g2rpo demo`: the whole service, one run through the client, and what it did to the images, measured."""

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.table import Table

from service.api.generations.schemas import GenerationView
from service.api.runs.schemas import RunView
from service.cli.console import console
from service.cli.show import print_error
from service.cli.watch import watch
from service.client import ApiError, Client
from service.contracts.plan import Plan
from service.contracts.runs import RunSpec
from service.contracts.status import TERMINAL, JobStatus
from service.local.measure import Memory, Processor, processor
from service.local.stack import Stack
from service.local.up import Interrupted, interruptible

PROMPTS, IMAGES, GENERATION_SEED = 6, 2, 1000
_GENERATION_SECONDS = 300.0
LABEL = {"g2rpo": "demo"}
_REDRAW_SECONDS = 3.0
"""Drawing costs processor time that the run on the same cores would use."""
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


class DemoFailed(Exception):
    """A job did not succeed; what is known was printed."""


@dataclass
class Seconds:
    """Wall-clock seconds by phase."""

    phases: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.phases[name] = round(time.perf_counter() - begun, 2)


def run(spec: Mapping[str, Any], out: Path, data: Path) -> int:
    """Run the demonstration and return the exit status. Figures and report.json are written to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    seconds, before = Seconds(), processor()
    begun = time.perf_counter()
    stack = Stack(data, port=0, say=lambda line: console.print(line, highlight=False, style="dim", soft_wrap=True))
    try:
        with interruptible(), Memory() as memory:
            with seconds.phase("start"):
                stack.__enter__()
            try:
                with Client(stack.url) as client:
                    report = demonstrate(client, stack.url, spec, out, seconds)
                parts = {name: processor(pid) for name, pid in stack.processes.items()}
            finally:
                with seconds.phase("stop"):
                    stack.stop()
    except DemoFailed:
        console.print(f"the demo failed; the logs are in {stack.logs}", style="red", highlight=False, soft_wrap=True)
        return 1
    except Interrupted:
        return 130
    except ApiError as error:
        raise stack.failure or error from None
    seconds.phases["total"] = round(time.perf_counter() - begun, 2)
    report |= {
        "seconds": seconds.phases,
        "processor_seconds": _processor_seconds(before, parts),
        "peak_memory_bytes": memory.peak_bytes,
        "versions": _versions(),
        "machine": {"platform": platform.platform(), "cores": len(os.sched_getaffinity(0))},
    }
    (out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    _print(report, out)
    return 0


def demonstrate(client: Client, url: str, spec: Mapping[str, Any], out: Path, seconds: Seconds) -> dict[str, Any]:
    """Run the demonstration on the service that `client` talks to, at `url`. Returns what the report says of it.

    Figures are written to `out`. Raises DemoFailed.
    """
    console.print(f"the service answers at {url}", highlight=False)
    _cancel_leftovers(client)
    spec = {**spec, "labels": {**spec.get("labels", {}), **LABEL}}
    plan = client.plan(spec)
    console.print(f"aligning by G²RPO: {plan.total_nfe} NFE planned", highlight=False)
    with seconds.phase("run"):
        aligned = watch(client, client.create_run(spec), console, _REDRAW_SECONDS)
    if aligned.status is not JobStatus.SUCCEEDED:
        console.print(f"run {aligned.id} is {aligned.status}", style="red", highlight=False)
        print_error(aligned)
        raise DemoFailed
    with seconds.phase("generate"):
        generation = _draw(client, aligned)
    with seconds.phase("figures"):
        (out / "curves.png").write_bytes(client.curves_as(aligned.id, "image/png", _CURVES))
        (out / "before_after.png").write_bytes(client.grid(generation.id))
        counted = _counted(client, aligned)
        shown = {curve.name: {"steps": curve.steps, "values": curve.values} for curve in _curves(client, aligned)}
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
        "heldout": {name: one.model_dump(mode="json") for name, one in (aligned.heldout or {}).items()},
        "nfe": {"planned": _planned(plan), "counted": counted},
        "curves": shown,
        "prompts": generation.spec["prompts"],
        "checkpoint": generation.spec["checkpoints"][-1],
        "spec": aligned.spec,
    }


def _cancel_leftovers(client: Client) -> None:
    """An earlier demo on the same data may have been interrupted; its run must not be taken before ours."""
    unfinished = [status for status in JobStatus if status not in TERMINAL]
    for leftover in client.runs(status=unfinished, label=[f"{key}:{value}" for key, value in LABEL.items()]):
        client.cancel(leftover.id)


def _draw(client: Client, aligned: RunView) -> GenerationView:
    """The same prompts with the same noises, by the base model and by the last checkpoint."""
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
    if generation.status is not JobStatus.SUCCEEDED:
        console.print(f"generation {generation.id} is {generation.status}", style="red", highlight=False)
        print_error(generation)
        raise DemoFailed
    return generation


def _curves(client: Client, aligned: RunView) -> Any:
    return client.curves(aligned.id, _CURVES).curves


def _planned(plan: Plan) -> dict[str, int]:
    steps = plan.spec.training.max_steps
    return {
        "rollout": plan.per_step_nfe * steps,
        "heldout": plan.heldout_nfe,
        "update": plan.per_step_updates * steps,
    }


def _counted(client: Client, aligned: RunView) -> dict[str, int]:
    """NFE as the engine counted them, over all steps."""
    parts = {"anchor": "rollout", "continuation": "rollout", "heldout": "heldout", "update": "update"}
    names = [f"nfe/{part}" for part in parts]
    counted = dict.fromkeys(parts.values(), 0)
    for curve in client.curves(aligned.id, names, max_points=10_000).curves:
        counted[parts[curve.name.removeprefix("nfe/")]] += round(sum(value or 0 for value in curve.values))
    return counted


def _processor_seconds(before: Processor, parts: Mapping[str, Processor]) -> dict[str, Any]:
    """Everything has ended and was waited for, so this process's own account holds every descendant's.

    The training process is the only child that the worker `train` ever had.
    """
    after = processor()
    inside = parts["worker-train"].children
    outside = after.own - before.own + after.children - before.children - inside
    drawing = parts["worker-generate"].own + parts["worker-generate"].children
    by_part = {name: round(part.own + part.children, 2) for name, part in parts.items() if name != "worker-train"}
    by_part |= {"worker-train": round(parts["worker-train"].own, 2), "demo": round(after.own - before.own, 2)}
    return {
        "child": round(inside, 2),
        "outside": round(outside, 2),
        "outside_share": round(outside / inside, 4) if inside else 0.0,
        "outside_without_drawing_share": round((outside - drawing) / inside, 4) if inside else 0.0,
        "outside_by_part": by_part,
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _print(report: dict[str, Any], out: Path) -> None:
    table = Table("held out", "before", "after", "difference", "95% interval", "pairs", box=None)
    for reward, one in report["heldout"].items():
        low, high = one["interval95"]
        numbers = (f"{one['before']:.4f}", f"{one['after']:.4f}", f"{one['difference']:+.4f}")
        table.add_row(reward, *numbers, f"{low:+.4f} to {high:+.4f}", str(one["pairs"]))
    console.print(table)
    seconds, processors = report["seconds"], report["processor_seconds"]
    planned, counted = (sum(report["nfe"][kind].values()) for kind in ("planned", "counted"))
    phases = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items() if name != "total")
    lines = [
        f"NFE: {counted} counted, {planned} planned",
        f"seconds: {seconds['total']:.0f} ({phases})",
        f"processor seconds: {processors['child']:.0f} in the training process, {processors['outside']:.0f} "
        f"({processors['outside_share']:.1%}) in everything else; {processors['outside_without_drawing_share']:.1%} "
        f"without drawing the images",
        f"peak memory: {report['peak_memory_bytes'] / 2**20:.0f} MiB",
        f"see {out / 'curves.png'}, {out / 'before_after.png'}, {out / 'report.json'}",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
