"""`python -m worker.entrypoints.train spec.json --out DIR`: run one alignment run without a server."""

import argparse
import logging
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from service.contracts.attempt_files import SPEC_FILE
from service.contracts.catalog import Catalog, load_catalog
from service.contracts.events import Failed, Finished, Started
from service.contracts.runs import RunSpec, refuse_uneven
from worker.engine.heartbeat import PROGRESS_SECONDS
from worker.engine.models import check_model, load_model
from worker.engine.models.compile import NoCompiler, check_compiler
from worker.engine.models.sources import fingerprint
from worker.engine.precision import default_device, resolve_dtype
from worker.engine.rewards import load_reward
from worker.engine.training.distributed import Distributed, init_distributed
from worker.engine.training.event_log import Cancelled, EventWriter, Paused
from worker.engine.training.optimizer import NotFinite
from worker.engine.training.prompt_sampler import load_named, load_prompts
from worker.engine.training.reward_failures import RewardsFailed, RewardsUnavailable
from worker.engine.training.trainer import Trainer
from worker.entrypoints import attempt_program
from worker.entrypoints.launcher import RENDEZVOUS, end_with_parent

logger = logging.getLogger(__name__)

PAUSED_ITSELF = 3
"""Exit code of a run that pauses automatically. The last event and the log contain the cause."""


def main(arguments: list[str] | None = None, progress_seconds: float = PROGRESS_SECONDS) -> int:
    """Train and return the exit code: 0 if finished, 1 if failed, 2 if not started, 3 if paused automatically.

    A run that is paused or cancelled on request also returns 0.
    """
    options = _parse(arguments)
    attempt_program.configure_logging(
        f"rank {os.environ['RANK']} " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    )
    end_with_parent()
    distributed = init_distributed(options.device, os.environ.get(RENDEZVOUS))
    body = partial(train, options, distributed, progress_seconds)
    return attempt_program.run_attempt(options.out, distributed, body, classify)


def train(options: argparse.Namespace, distributed: Distributed, progress_seconds: float, events: EventWriter) -> int:
    """Load everything, train, and return the exit code."""
    spec = RunSpec.model_validate_json(distributed.broadcast(options.spec.read_bytes()))
    if distributed.is_main:
        (options.out / SPEC_FILE).write_text(spec.model_dump_json(indent=1), encoding="utf-8")
    with attempt_program.loading(events, 0, spec.training.max_steps, progress_seconds):
        catalog = load_catalog()
        trainer = build_trainer(spec, catalog, events, options.device, distributed, dict(options.prompt_sets))
        if options.resume:
            trainer.checkpoints.resume(options.resume)
        elif options.start_from:
            trainer.checkpoints.start_from(options.start_from)
        started = Started(provenance=provenance(trainer, catalog), resumed_at=trainer.step)
    events.write(started)
    status = 0
    try:
        trainer.run()
    except Cancelled:
        events.write(Finished(outcome="cancelled", step=trainer.step))
    except Paused:
        trainer.pause()
    except RewardsUnavailable as error:
        trainer.pause(error.cause)
        logger.error("paused after step %d: %s. %s", trainer.step, error.cause.detail, error.cause.hint)
        status = PAUSED_ITSELF
    distributed.shut_down()
    return status


def build_trainer(
    spec: RunSpec,
    catalog: Catalog,
    events: EventWriter,
    device: str | None = None,
    distributed: Distributed | None = None,
    prompt_sets: Mapping[str, Path] | None = None,
) -> Trainer:
    """Create the trainer with the model, rewards and prompts of `spec`.

    prompt_sets: files by prompt set name; they take precedence over the catalog's prompt sets.
    Raises ValueError or KeyError if the spec or one of these items is invalid.
    """
    distributed = distributed or Distributed(default_device(device))
    refuse_uneven(spec.algorithm, spec.training.prompts_per_step, distributed.world_size)
    target, entry = distributed.device, catalog.model(spec.model)
    prompts = load_prompts(spec.prompts, catalog, prompt_sets or {})
    heldout = load_named(spec.heldout.prompts, catalog, prompt_sets or {})
    names = dict.fromkeys([reward.name for reward in spec.rewards] + list(spec.heldout_rewards))
    # Rewards are loaded first, because the model may need a long download. Both are checked before the device is used.
    rewards = {name: load_reward(catalog.reward(name), torch.device("cpu")) for name in names}
    check_model(entry)
    if spec.sampling.compile:
        check_compiler(target)
    if not spec.resources.offload_rewards:
        for reward in rewards.values():
            reward.move(target)
    precision = entry.dtype if spec.training.precision == "auto" else spec.training.precision
    model = load_model(entry, target, resolve_dtype(precision, target))
    if spec.training.gradient_checkpointing:
        model.transformer.enable_gradient_checkpointing()
    model.check_prompts(prompts)  # report an invalid prompt now, not at the step that uses it
    return Trainer(spec, model, rewards, prompts, heldout, events, distributed)


def provenance(trainer: Trainer, catalog: Catalog) -> dict[str, Any]:
    """Return the environment, weights, prompts and devices, to show whether two attempts are comparable."""
    spec, found = trainer.spec, attempt_program.provenance(trainer.model.device)
    processes = trainer.distributed.all_gather_object((found["process"], found["device"]))
    sources = {spec.model: catalog.model(spec.model).source}
    sources |= {name: source for name in trainer.scorer.rewards if (source := catalog.reward(name).source) is not None}
    return found | {
        "devices": [device for _, device in processes],
        "precision": str(trainer.model.dtype).removeprefix("torch."),
        "processes": [process for process, _ in processes],
        "weights": {name: fingerprint(source) for name, source in sources.items()},
        "rewards": {name: known for name, reward in trainer.scorer.rewards.items() if (known := reward.identity())},
        "prompts": {"train": trainer.prompts.fingerprint, "heldout": trainer.evaluator.fingerprint},
        "architecture": trainer.model.architecture(),
        "trained_parameters": sum(parameter.numel() for parameter in trainer.optimizer.parameters),
    }


def classify(error: Exception) -> Failed:
    """Convert an exception to a failure of the run, with a hint on how to fix it."""
    detail = f"{type(error).__name__}: {error}"
    match error:
        case RewardsFailed():
            hint = "Fix or remove the failing rewards, then start again."
            return Failed(code="rewards_failed", detail=str(error), hint=hint)
        case NotFinite():
            return Failed(code="not_finite", detail=str(error), hint="Lower training.learning_rate or use float32.")
        case NoCompiler():
            hint = "Install a C compiler, and Triton for a GPU, on the worker, or set sampling.compile to false."
            return Failed(code="no_compiler", detail=detail, hint=hint)
        case torch.OutOfMemoryError():
            hint = (
                "Set training.gradient_checkpointing and resources.offload_rewards, or lower the batch sizes of "
                "sampling and training. POST /plans shows the memory of each part, the log where it ran out."
            )
            return Failed(code="out_of_memory", detail=detail, hint=hint)
    return attempt_program.classify_common(error, "Free disk space; checkpoints that are already listed are complete.")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.entrypoints.train", description=__doc__)
    parser.add_argument("spec", type=Path, help="run spec as JSON: the fields of POST /runs")
    parser.add_argument("--out", type=Path, required=True, help="new directory for events, samples and checkpoints")
    parser.add_argument("--device", help="torch device; default: cuda if available, otherwise cpu")
    parser.add_argument(
        "--prompt-set",
        dest="prompt_sets",
        type=_prompt_set,
        action="append",
        default=[],
        metavar="NAME=FILE",
        help='prompts of a set that is not in the catalog, JSON lines of {"prompt": "…"}; repeatable',
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--start-from", type=Path, metavar="DIR", help="start from the weights of this checkpoint")
    start.add_argument("--resume", type=Path, metavar="DIR", help="resume from this checkpoint of the same run")
    return parser.parse_args(arguments)


def _prompt_set(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not a prompt set; expected NAME=FILE")
    return name, Path(file)


if __name__ == "__main__":
    status = main()
    if status and torch.distributed.is_initialized():
        sys.stderr.flush()
        os._exit(status)  # a regular exit would wait for the other processes
    sys.exit(status)
