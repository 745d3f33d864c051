"""`python -m worker.entrypoints.evaluate JOB.json --out DIR`: run one attempt at an evaluation without a server."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from service.contracts.attempt_files import SPEC_FILE
from service.contracts.catalog import Catalog, Source, load_catalog
from service.contracts.evaluations import EvaluationJob
from service.contracts.events import Failed, Started
from worker.engine.evaluation.evaluator import Evaluator, RemainingWork
from worker.engine.evaluation.image_sampler import ImageSampler
from worker.engine.evaluation.judges import JudgeFailed, load_judge
from worker.engine.heartbeat import PROGRESS_SECONDS
from worker.engine.models import check_model, load_model
from worker.engine.models.sources import fingerprint
from worker.engine.precision import default_device, resolve_dtype
from worker.engine.rewards import load_reward
from worker.engine.training.checkpoint import read_manifest
from worker.engine.training.distributed import Distributed
from worker.engine.training.event_log import EventWriter
from worker.entrypoints import attempt_program
from worker.entrypoints.launcher import end_with_parent


def main(arguments: list[str] | None = None, progress_seconds: float = PROGRESS_SECONDS) -> int:
    """Run the evaluation and return the exit code: 0 if it finished, 1 if it failed, 2 if it was not started."""
    options = _parse(arguments)
    attempt_program.configure_logging()
    end_with_parent()
    body = partial(evaluate, options, progress_seconds)
    return attempt_program.run_attempt(options.out, Distributed(torch.device("cpu")), body, classify)


def evaluate(options: argparse.Namespace, progress_seconds: float, events: EventWriter) -> int:
    """Load everything, run the evaluation, and return the exit code."""
    job = EvaluationJob.model_validate_json(options.job.read_bytes())
    (options.out / SPEC_FILE).write_text(job.model_dump_json(), encoding="utf-8")
    with attempt_program.loading(events, len(job.done), job.total_images, progress_seconds):
        device, catalog = default_device(options.device), load_catalog()
        evaluator = build_evaluator(job, catalog, events, device, options.checkpoint)
        started = Started(provenance=provenance(job, evaluator, catalog, device), resumed_at=len(job.done))
    events.write(started)
    events.write(evaluator.run())
    return 0


def build_evaluator(
    job: EvaluationJob, catalog: Catalog, events: EventWriter, device: torch.device, checkpoint: Path | None
) -> Evaluator:
    """Create the evaluator for `job`. The model is loaded only if images remain to be sampled.

    Raises ValueError or KeyError if the job is invalid, and JudgeFailed if its judge cannot be used.
    """
    judge = load_judge(job.judge, job.benchmark) if job.judge else None
    remaining = RemainingWork.of(job, events.directory)
    sampler = None
    if remaining.missing:
        if (checkpoint is None) != (job.spec.checkpoint == "base"):
            raise ValueError(
                f"the job's checkpoint is {job.spec.checkpoint}, --checkpoint is {checkpoint}; set both or neither"
            )
        entry = catalog.model(job.spec.model)
        # Check everything before using the device.
        rewards = {name: load_reward(catalog.reward(name), torch.device("cpu")) for name in job.spec.rewards}
        if checkpoint is not None:
            read_manifest(checkpoint)
        check_model(entry)
        for reward in rewards.values():
            reward.move(device)
        model = load_model(entry, device, resolve_dtype(entry.dtype, device))
        model.check_prompts([prompt.text for prompt in job.benchmark.prompts])
        sampler = ImageSampler(job, model, rewards, events.directory, checkpoint)
    return Evaluator(job, remaining, sampler, judge, events)


def provenance(job: EvaluationJob, evaluator: Evaluator, catalog: Catalog, device: torch.device) -> dict[str, Any]:
    """Return the environment, weights, benchmark and judge, to show whether two attempts are comparable."""
    sources: dict[str, Source | None] = {}
    precision = None
    if evaluator.samples_images:  # otherwise no weights are loaded, and the files may be missing
        entry = catalog.model(job.spec.model)
        precision = str(resolve_dtype(entry.dtype, device)).removeprefix("torch.")
        sources = {name: catalog.reward(name).source for name in job.spec.rewards} | {job.spec.model: entry.source}
    words = job.benchmark.judge
    return attempt_program.provenance(device, ("pillow", "httpx")) | {
        "precision": precision,
        "weights": {name: fingerprint(source) for name, source in sources.items() if source is not None},
        "benchmark": {
            "name": job.benchmark.name,
            "data_sha256": job.benchmark.data_sha256,
            "template_sha256": words and words.template_sha256,
            "definitions_sha256": words and words.definitions_sha256,
            "content_sha256": job.benchmark.content_sha256,
            "prompts": len(job.benchmark.prompts),
        },
        "judge": job.judge and {"name": job.judge.name, "kind": job.judge.kind, "identity": job.judge.identity},
    }


def classify(error: Exception) -> Failed:
    """Convert an exception to a failure of the evaluation, with a hint on how to fix it."""
    match error:
        case JudgeFailed():
            hint = "Fix the judge or its catalog entry; POST /evaluations/ID/resume keeps the existing results."
            return Failed(code="judge_failed", detail=str(error), hint=hint)
        case torch.OutOfMemoryError():
            hint = "Request a smaller `width` and `height`, or use a larger device."
            return Failed(code="out_of_memory", detail=f"{type(error).__name__}: {error}", hint=hint)
    return attempt_program.classify_common(
        error, "Free disk space; POST /evaluations/ID/resume keeps the existing results."
    )


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.entrypoints.evaluate", description=__doc__)
    parser.add_argument("job", type=Path, help="evaluation job as JSON (EvaluationJob)")
    parser.add_argument("--out", type=Path, required=True, help="new directory for events and images")
    parser.add_argument("--device", help="torch device; default: cuda if available, otherwise cpu")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="checkpoint directory; default: the base model")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
