"""`python -m worker.entrypoints.train spec.json --out DIR`: one alignment run, with no server."""

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError

from service.contracts.catalog import Catalog, ModelEntry, load_catalog
from service.contracts.disk import NO_ROOM
from service.contracts.events import Failed, Finished, Progress, Started
from service.contracts.jobs import EVENTS_FILE, SPEC_FILE
from service.contracts.runs import RunSpec, refuse_uneven
from worker.engine.keepalive import PROGRESS_SECONDS, repeated
from worker.engine.models import check_model, load_model
from worker.engine.models.compile import NoCompiler, check_compiler
from worker.engine.models.sources import fingerprint
from worker.engine.rewards import load_reward
from worker.engine.sampling import precision_on
from worker.engine.training.distributed import Ranks, device_named, join
from worker.engine.training.event_log import Cancelled, EventWriter, Paused, Unheard
from worker.engine.training.optimizer import NotFinite
from worker.engine.training.prompt_sampler import load_named, load_prompts
from worker.engine.training.reward_failures import RewardsAway, RewardsFailed
from worker.engine.training.trainer import Trainer
from worker.entrypoints.parent import end_with_parent
from worker.entrypoints.ranks import FAILURE, RENDEZVOUS

logger = logging.getLogger(__name__)

PAUSED_BY_ITSELF = 3


def main(arguments: list[str] | None = None, progress_seconds: float = PROGRESS_SECONDS) -> int:
    """Run and return the exit code: 0 after `finished`, 1 after `failed`, 2 where nothing was begun.

    3 where the run paused by itself: the last event and the log say why.
    """
    options = _parse(arguments)
    rank = f"rank {os.environ['RANK']} " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    form = f"%(asctime)s {rank}%(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, stream=sys.stderr)
    end_with_parent()
    ranks = join(options.device, os.environ.get(RENDEZVOUS))
    if ranks.agree((options.out / EVENTS_FILE).exists()):
        sys.stderr.write(f"{options.out} already holds a run; give --out a directory of its own\n")
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    events = EventWriter(options.out) if ranks.leads else Unheard(options.out)
    try:
        spec = RunSpec.model_validate_json(ranks.agree(options.spec.read_bytes()))
        if ranks.leads:
            (options.out / SPEC_FILE).write_text(spec.model_dump_json(indent=1), encoding="utf-8")

        def loading() -> None:
            events.write(Progress(step=0, max_steps=spec.training.max_steps, phase="loading"))

        loading()
        with repeated(loading, progress_seconds):
            catalog = load_catalog()
            trainer = build_trainer(spec, catalog, events, options.device, ranks, dict(options.prompt_sets))
            if options.resume:
                trainer.resume(options.resume)
            elif options.start_from:
                trainer.start_from(options.start_from)
            started = Started(provenance=provenance(trainer, catalog), resumed_at=trainer.step)
        events.write(started)
        try:
            trainer.run()
        except Cancelled:
            events.write(Finished(outcome="cancelled", step=trainer.step))
        except Paused:
            trainer.pause()
        except RewardsAway as error:
            trainer.pause(error.cause)
            logger.error("paused after step %d: %s. %s", trainer.step, error.cause.detail, error.cause.hint)
            ranks.leave()
            return PAUSED_BY_ITSELF
        ranks.leave()
        return 0
    except Exception as error:  # every cause becomes an event that the supervisor can show
        logger.exception("the run failed")
        failure = classify(error)
        if file := os.environ.get(FAILURE):  # whether this rank is the cause, only who started all of them can say
            Path(file).write_text(failure.model_dump_json(), encoding="utf-8")
        else:
            events.write(failure)
        return 1
    finally:
        events.close()


def build_trainer(
    spec: RunSpec,
    catalog: Catalog,
    events: EventWriter,
    device: str | None = None,
    ranks: Ranks | None = None,
    prompt_sets: Mapping[str, Path] | None = None,
) -> Trainer:
    """Load what `spec` names: model, rewards, prompts. ValueError or KeyError says what is wrong.

    `prompt_sets` are files of prompt sets by name, which go before the catalog's.
    """
    ranks = ranks or Ranks(device_named(device))
    refuse_uneven(spec.algorithm, spec.training.prompts_per_step, ranks.world)
    place, entry = ranks.device, catalog.model(spec.model)
    prompts = load_prompts(spec.prompts, catalog, prompt_sets or {})
    heldout = load_named(spec.heldout.prompts, catalog, prompt_sets or {})
    names = dict.fromkeys([reward.name for reward in spec.rewards] + list(spec.heldout_rewards))
    # All rewards are read before the model, which may be a long download, and both before the device is taken.
    rewards = {name: load_reward(catalog.reward(name), torch.device("cpu")) for name in names}
    check_model(entry)
    if spec.sampling.compile:
        check_compiler(place)
    if not spec.resources.offload_rewards:
        for reward in rewards.values():
            reward.move(place)
    model = load_model(entry, place, _dtype(spec, entry, place))
    if spec.training.gradient_checkpointing:
        model.transformer.enable_gradient_checkpointing()
    model.check_prompts(prompts)  # now rather than at the step that draws the bad one
    return Trainer(spec, model, rewards, prompts, heldout, events, ranks)


def provenance(trainer: Trainer, catalog: Catalog) -> dict[str, Any]:
    """What the attempt ran on and with: enough to say whether two attempts computed the same thing."""
    device, spec = trainer.model.device, trainer.spec
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    everywhere = trainer.ranks.tell((os.getpid(), name))
    rewards = {name: catalog.reward(name).source for name in trainer.scorer.rewards}
    return {
        "device": name,
        "devices": [device for _, device in everywhere],
        "precision": str(trainer.model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "process": os.getpid(),
        "processes": [process for process, _ in everywhere],
        "python": sys.version.split()[0],
        "packages": {name: version(name) for name in ("g2rpo", "torch", "diffusers", "transformers", "peft")},
        "commit": git_commit(),
        "weights": {
            spec.model: fingerprint(catalog.model(spec.model).source),
            **{name: fingerprint(source) for name, source in rewards.items() if source is not None},
        },
        "rewards": {name: identity for name, one in trainer.scorer.rewards.items() if (identity := one.identity())},
        "prompts": {"train": trainer.order.fingerprint, "heldout": trainer.heldout.fingerprint},
        "architecture": trainer.model.architecture(),
        "trained_parameters": sum(parameter.numel() for parameter in trainer.updater.parameters),
    }


def git_commit() -> str | None:
    """The commit of the code: what the image's build wrote down, else that of the checkout it runs from."""
    if given := os.environ.get("G2RPO_COMMIT"):
        return given
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or no checkout


def classify(error: Exception) -> Failed:
    """What went wrong and what to do about it."""
    detail = f"{type(error).__name__}: {error}"
    match error:
        case RewardsFailed():
            return Failed(
                code="rewards_failed", detail=str(error), hint="Mend or remove the failing rewards, then start again."
            )
        case NotFinite():
            return Failed(code="not_finite", detail=str(error), hint="Lower training.learning_rate or use float32.")
        case NoCompiler():
            hint = (
                "Install a C compiler (for a GPU Triton too) where the worker runs, or set sampling.compile to false."
            )
            return Failed(code="no_compiler", detail=str(error), hint=hint)
        case torch.OutOfMemoryError():
            hint = (
                "Set training.gradient_checkpointing and resources.offload_rewards, or lower the batch sizes of "
                "sampling and training. POST /plans tells memory by part, the log where it ran out."
            )
            return Failed(code="out_of_memory", detail=detail, hint=hint)
        case OSError() | SafetensorError() if _disk_full(error):
            return Failed(
                code="disk_full", detail=detail, hint="Free disk space; checkpoints already listed are whole."
            )
        case ValidationError() | ValueError() | KeyError():
            text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
            return Failed(code="bad_config", detail=text, hint="Correct the spec or the catalog.")
        case _:
            return Failed(code="error", detail=detail, hint="The log's end shows where it happened.")


def _disk_full(error: Exception) -> bool:
    """Whether writing failed for want of space. safetensors has no error numbers but in its text."""
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    return any(f"(os error {number})" in str(error) for number in NO_ROOM)


def _dtype(spec: RunSpec, entry: ModelEntry, device: torch.device) -> torch.dtype:
    if spec.training.precision == "auto":
        return precision_on(device, entry)
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[spec.training.precision]


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.entrypoints.train", description=__doc__)
    parser.add_argument("spec", type=Path, help="the run's spec, JSON: fields as in POST /runs")
    parser.add_argument("--out", type=Path, required=True, help="directory for events, samples and checkpoints")
    parser.add_argument("--device", help="torch device; default: cuda if there is one, else cpu")
    parser.add_argument(
        "--prompt-set",
        dest="prompt_sets",
        type=_prompt_set,
        action="append",
        default=[],
        metavar="NAME=FILE",
        help='the prompts of a set that the catalog has not: JSON lines, {"prompt": "…"}; repeatable',
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--start-from", type=Path, metavar="DIR", help="checkpoint directory whose weights to start from"
    )
    start.add_argument("--resume", type=Path, metavar="DIR", help="checkpoint directory of this run to continue")
    return parser.parse_args(arguments)


def _prompt_set(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no prompt set; write NAME=FILE")
    return name, Path(file)


if __name__ == "__main__":
    status = main()
    if status and torch.distributed.is_initialized():
        sys.stderr.flush()
        os._exit(status)  # an orderly end would wait for ranks that will not come
    sys.exit(status)
