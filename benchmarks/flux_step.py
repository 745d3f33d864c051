"""One training step of `paper-lora` at FLUX.1-dev's true size: seconds, nfe and memory beside the plan's.

    python -m benchmarks.flux_step [--prompts 1] [--set FIELD=VALUE] [--json FILE] [--limit GB] [--tiny]

The engine makes the step as in a run, with random weights made on the device: transformer, text encoders and
autoencoder of FLUX.1-dev in bfloat16, the CLIPs of HPS v2.1 and DFN5B in float32. It needs a card that nothing else
uses, 11 GB of main memory for the text encoders, and 4 GB in TMPDIR for the checkpoint that ends a run; no weights and
no network. `--tiny` makes everything small, to try the script itself.

Figures are those of the last step: `--set training.max_steps=2` leaves warming up, or compiling, to the first.

A phase's memory is the most that tensors took while it lasted, beside the plan's parts without `context and gaps`.
AdamW's moments and the pristine copy, which the first step makes, are there from the beginning, as in every later one.
The whole is what the driver had given out at the end, beside the plan's total: torch keeps what it frees, so this is
the most there ever was, and more than was needed where the card has room; `--limit` takes the room away, as on a
smaller card. On a CPU it is the process's own memory, which no plan foresees.
"""

import argparse
import json
import resource
import shlex
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from benchmarks.random_flux import MODEL, TINY, TRUE, Sizes, described, flux, reward
from service.cli.console import read_spec
from service.contracts.catalog import Catalog, Source, load_catalog
from service.contracts.jobs import EVENTS_FILE
from service.contracts.memory import precision
from service.contracts.plan import Plan, make_plan
from service.contracts.presets import merge
from service.contracts.runs import RunSpec
from worker.engine import precision as float32
from worker.engine.models.flux import FluxModel
from worker.engine.precision import default_device
from worker.engine.training.distributed import Distributed
from worker.engine.training.event_log import EventWriter
from worker.engine.training.trainer import Trainer
from worker.shapes.sampling import heldout_prompts

CATALOG = Path(__file__).parents[1] / "docs" / "reference" / "catalogs" / "flux.yaml"
ROLLOUT_BAR = 125.0
"""Seconds that sampling may take for a prompt on one H100."""
PHASES = {
    "encoding": ("encoding",),
    "rollout": ("anchor", "branch", "continuation"),
    "scoring": ("decode", "reward"),
    "update": ("update",),
}
"""The meter's parts, by the plan's phases."""


@dataclass(frozen=True)
class Part:
    """A part's seconds, its evaluations (decode, reward: images), and the planned ones.

    each: seconds of one of them. catalog: those that the plan reckons with.
    """

    seconds: float
    nfe: int
    planned: int
    each: float | None
    catalog: float | None


@dataclass(frozen=True)
class Memory:
    """Bytes that were measured and planned, and the share of the measured ones that was planned."""

    measured: int
    planned: int
    ratio: float


@dataclass(frozen=True)
class Report:
    """What is printed, and written as JSON. `metrics` are those that the run wrote."""

    command: str
    date: str
    device: str
    versions: dict[str, str]
    parts: dict[str, Part]
    rollout_seconds_per_prompt: float
    rollout_bar: float
    memory: dict[str, Memory]
    metrics: dict[str, float]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write the report where that is asked for."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parsed(given)
    device = default_device(options.device)
    if options.limit:
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(options.limit * 1e9 / whole)
    with TemporaryDirectory() as directory:
        sizes = TINY if options.tiny else TRUE
        trainer, catalog = made(sizes, device, options.prompts, options.settings, Path(directory))
        metrics = measure(trainer)
    plan = make_plan(trainer.spec, catalog)
    rollout = sum(metrics[f"seconds/{part}"] for part in PHASES["rollout"])
    report = Report(
        command=shlex.join(["python", "-m", "benchmarks.flux_step", *given]),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        versions={name: version(name) for name in ("torch", "diffusers", "transformers", "peft")},
        parts=_parts(metrics, plan, catalog),
        rollout_seconds_per_prompt=rollout / plan.spec.training.prompts_per_step,
        rollout_bar=ROLLOUT_BAR,
        memory=_memory(metrics, plan, taken(device)),
        metrics=metrics,
    )
    show(report)
    if options.json:
        options.json.write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")


def _parsed(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.flux_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prompts", type=int, default=1, help="prompts of the step")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="FIELD=VALUE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report there")
    parser.add_argument("--device", help="torch device; default: cuda if there is one, else cpu")
    parser.add_argument("--limit", type=float, metavar="GB", help="the most of the card that torch may take")
    parser.add_argument("--tiny", action="store_true", help="make everything small")
    options = parser.parse_args(given)
    if default_device(options.device).type != "cuda" and not options.tiny:
        parser.error("a step at true size needs a CUDA card; --tiny tries the script without one")
    return options


def made(
    sizes: Sizes, device: torch.device, prompts: int, settings: list[str], directory: Path
) -> tuple[Trainer, Catalog]:
    """The trainer as `build_trainer` makes it, but of random weights, and the catalog that describes them."""
    *drawn, heldout = heldout_prompts(prompts + 1)
    step = {
        "preset": "paper-lora",
        "prompts": {"items": drawn},
        "training": {"max_steps": 1, "prompts_per_step": prompts},
        "heldout": {"every": 0},
    }
    spec = RunSpec.model_validate(merge(merge(step, sizes.spec), read_spec(None, settings)))
    offered = load_catalog(CATALOG)
    dtype = getattr(torch, precision(spec, offered.model(MODEL).model_copy(update=sizes.entry)))
    float32.disable_tf32()
    torch.manual_seed(spec.training.seed)
    pipeline = flux(sizes, device, dtype)
    rewards = {one.name: reward(offered.reward(one.name).kind, sizes, device) for one in spec.rewards}
    catalog = described(offered, sizes, pipeline, rewards)
    assert sizes is not TRUE or catalog == offered, "what was made is not what the catalog describes"
    # The run's directory stands for the source's, by whose files encodings of other weights are told apart.
    entry = catalog.model(MODEL).model_copy(update={"source": Source(directory=directory)})
    model = FluxModel(pipeline, entry, device, dtype)
    if spec.training.gradient_checkpointing:
        model.transformer.enable_gradient_checkpointing()
    events = EventWriter(directory)
    return Trainer(spec, model, {**rewards}, tuple(drawn), (heldout,), events, Distributed(device)), catalog


def measure(trainer: Trainer) -> dict[str, float]:
    """Run to the end; metrics of encoding and of the last step. RuntimeError where a value or a gradient is missing."""
    optimizer = trainer.optimizer.adamw
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # makes the moments and moves nothing; the engine sets the rate at every step
    for parameter in trainer.optimizer.parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    with trainer.model.sampling_weights():
        pass  # makes the pristine copy
    with trainer.meter.part("encoding"):
        trainer.encodings.prepare(trainer.spec.prompts.items or ())
    trainer.run()
    trainer.events.close()
    metrics: dict[str, Any] = {}
    for line in (trainer.events.directory / EVENTS_FILE).read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        metrics |= event["values"] if event["type"] == "metrics" else {}
    wrong = [name for name, value in metrics.items() if value is None or (value and name.startswith("failures/"))]
    if wrong:
        raise RuntimeError(f"these metrics say that the step was not whole: {', '.join(wrong)}")
    return metrics


def taken(device: torch.device) -> int:
    """Bytes of a card that are given out, to whomever; of the CPU, the most that this process had."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _parts(metrics: dict[str, float], plan: Plan, catalog: Catalog) -> dict[str, Part]:
    entry, training, each = catalog.model(MODEL), plan.spec.training, plan.per_prompt
    prompts = training.prompts_per_step
    planned = {"anchor": each.anchor, "branch": each.sde_steps, "continuation": each.continuations}
    planned |= {"decode": each.images, "reward": each.images, "update": plan.per_step_updates // prompts}
    scoring = sum(catalog.reward(one.name).seconds_per_image or 0.0 for one in plan.spec.rewards)
    compiled = entry.seconds_per_compiled_nfe if plan.spec.sampling.compile else None
    rates = {"anchor": entry.seconds_per_nfe, "continuation": compiled or entry.seconds_per_nfe}
    rates |= {"decode": entry.seconds_per_decode, "reward": scoring, "update": entry.seconds_per_update}
    images = metrics["images/total"] / training.max_steps
    parts = {}
    for part in (part for phase in PHASES.values() for part in phase):
        seconds = metrics[f"seconds/{part}"]
        number = int(images if part in PHASES["scoring"] else metrics.get(f"nfe/{part}", 0))
        share = seconds / number if number else None
        parts[part] = Part(seconds, number, prompts * planned.get(part, 0), share, rates.get(part))
    return parts


def _memory(metrics: dict[str, float], plan: Plan, whole: int) -> dict[str, Memory]:
    assert plan.memory is not None  # the catalog has the model
    pairs = {}
    for one in plan.memory.phases:
        most = max(int(metrics[f"memory/{part}"]) for part in PHASES[one.phase])
        pairs[str(one.phase)] = most, one.total - one.parts["context and gaps"]
    pairs["whole"] = whole, plan.memory.total
    return {name: Memory(measured, planned, planned / measured) for name, (measured, planned) in pairs.items()}


def show(report: Report) -> None:
    """Print what it was measured with, and two tables."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    console.print(f"{report.command}\n{report.device}, {versions}, {report.date}")
    parts = Table("part", "seconds", "nfe", "planned", "each, s", "catalog, s", box=MARKDOWN)
    for name, part in report.parts.items():
        label = f"{name}, images" if name in PHASES["scoring"] else name
        rates = ("" if rate is None else f"{rate:.4f}" for rate in (part.each, part.catalog))
        parts.add_row(label, f"{part.seconds:.2f}", str(part.nfe), str(part.planned), *rates)
    console.print(parts)
    console.print(f"rollout: {report.rollout_seconds_per_prompt:.2f} s a prompt, the bar is {report.rollout_bar:.0f} s")
    memory = Table("memory, GB", "measured", "planned", "planned / measured", box=MARKDOWN)
    for name, one in report.memory.items():
        memory.add_row(name, f"{one.measured / 1e9:.3f}", f"{one.planned / 1e9:.3f}", f"{one.ratio:.3f}")
    console.print(memory)


if __name__ == "__main__":
    main()
