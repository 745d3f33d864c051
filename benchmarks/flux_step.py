"""Measure one training step of `paper-lora` at the size of FLUX.1-dev; compare seconds, NFE and memory with the plan.

    python -m benchmarks.flux_step [--prompts 1] [--set FIELD=VALUE] [--json FILE] [--limit GB] [--tiny]

The engine runs the step as in training, with random weights initialized on the device: transformer, text encoders and
autoencoder of FLUX.1-dev in bfloat16, the CLIP models of HPS v2.1 and DFN5B in float32. This requires an otherwise
unused GPU, 11 GB of main memory for the text encoders, and 4 GB in TMPDIR for the checkpoint at the end of the run. It
requires neither weights nor network. `--tiny` uses small models, to test the script itself.

The report is for the last step: with `--set training.max_steps=2` it excludes warm-up and compilation.

The memory of a phase is the maximum allocated by tensors, compared with the planned parts except `context and
fragmentation`. AdamW's moments and the copy of the original weights are allocated before the first step, as in every
later step. The total is the memory that the driver has allocated at the end, compared with the planned total. torch
caches freed memory, so this is a maximum and may exceed the required memory; `--limit` simulates a smaller GPU. On a
CPU it is the memory of the process, which the plan does not estimate.
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
from service.contracts.attempt_files import EVENTS_FILE
from service.contracts.catalog import Catalog, Source, load_catalog
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
from worker.shapes.caption_sampling import heldout_prompts

CATALOG = Path(__file__).parents[1] / "docs" / "reference" / "catalogs" / "flux.yaml"
ROLLOUT_BAR = 125.0
"""Target: maximum seconds of sampling per prompt on one H100."""
PHASES = {
    "encoding": ("encoding",),
    "rollout": ("anchor", "branch", "continuation"),
    "scoring": ("decode", "reward"),
    "update": ("update",),
}
"""Parts of the cost meter in each phase of the plan."""


@dataclass(frozen=True)
class Part:
    """Seconds of a part, and its measured and planned evaluations (for decode and reward: images).

    each: seconds per evaluation. catalog: seconds per evaluation that the plan assumes.
    """

    seconds: float
    nfe: int
    planned: int
    each: float | None
    catalog: float | None


@dataclass(frozen=True)
class Memory:
    """Measured and planned bytes, and planned / measured."""

    measured: int
    planned: int
    ratio: float


@dataclass(frozen=True)
class Report:
    """The printed report, also written as JSON. `metrics` are the metrics of the run."""

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
    """Measure, print the report, and write it to `--json`."""
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
    parser.add_argument("--prompts", type=int, default=1, help="number of prompts of the step")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="FIELD=VALUE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report to this file")
    parser.add_argument("--device", help="torch device; default: cuda if available, otherwise cpu")
    parser.add_argument("--limit", type=float, metavar="GB", help="maximum GPU memory for torch")
    parser.add_argument("--tiny", action="store_true", help="use small models")
    options = parser.parse_args(given)
    if default_device(options.device).type != "cuda" and not options.tiny:
        parser.error("A step at the size of FLUX.1-dev requires a CUDA GPU; use --tiny to test the script without one")
    return options


def made(
    sizes: Sizes, device: torch.device, prompts: int, settings: list[str], directory: Path
) -> tuple[Trainer, Catalog]:
    """Build a trainer like `build_trainer`, with random weights, and the catalog that describes them."""
    *training, heldout = heldout_prompts(prompts + 1)
    step = {
        "preset": "paper-lora",
        "prompts": {"items": training},
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
    assert sizes is not TRUE or catalog == offered, "The sizes of the models differ from the catalog"
    # The directory of the run serves as the source: cached text encodings are keyed by the files of the source.
    entry = catalog.model(MODEL).model_copy(update={"source": Source(directory=directory)})
    model = FluxModel(pipeline, entry, device, dtype)
    if spec.training.gradient_checkpointing:
        model.transformer.enable_gradient_checkpointing()
    events = EventWriter(directory)
    return Trainer(spec, model, {**rewards}, tuple(training), (heldout,), events, Distributed(device)), catalog


def measure(trainer: Trainer) -> dict[str, float]:
    """Run all steps; return the metrics of encoding and of the last step.

    Raises RuntimeError if a value or a gradient is missing.
    """
    optimizer = trainer.optimizer.adamw
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # allocates the moments without changing weights; the engine sets the rate at every step
    for parameter in trainer.optimizer.parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    with trainer.model.sampling_weights():
        pass  # allocates the copy of the original weights
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
        raise RuntimeError(f"The step is incomplete; missing values or failures in: {', '.join(wrong)}")
    return metrics


def taken(device: torch.device) -> int:
    """Allocated bytes of a GPU, by all processes; on a CPU, the peak memory of this process."""
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
        peak = max(int(metrics[f"memory/{part}"]) for part in PHASES[one.phase])
        pairs[str(one.phase)] = peak, one.total - one.parts["context and fragmentation"]
    pairs["whole"] = whole, plan.memory.total
    return {name: Memory(measured, planned, planned / measured) for name, (measured, planned) in pairs.items()}


def show(report: Report) -> None:
    """Print the environment and two tables."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    console.print(f"{report.command}\n{report.device}, {versions}, {report.date}")
    parts = Table("part", "seconds", "NFE", "planned", "each, s", "catalog, s", box=MARKDOWN)
    for name, part in report.parts.items():
        label = f"{name}, images" if name in PHASES["scoring"] else name
        rates = ("" if rate is None else f"{rate:.4f}" for rate in (part.each, part.catalog))
        parts.add_row(label, f"{part.seconds:.2f}", str(part.nfe), str(part.planned), *rates)
    console.print(parts)
    console.print(f"rollout: {report.rollout_seconds_per_prompt:.2f} s per prompt, target {report.rollout_bar:.0f} s")
    memory = Table("memory, GB", "measured", "planned", "planned / measured", box=MARKDOWN)
    for name, one in report.memory.items():
        memory.add_row(name, f"{one.measured / 1e9:.3f}", f"{one.planned / 1e9:.3f}", f"{one.ratio:.3f}")
    console.print(memory)


if __name__ == "__main__":
    main()
