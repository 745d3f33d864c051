"""`python -m worker.entrypoints.evaluate JOB.json --out DIR`: one attempt at an evaluation, with no server."""

import argparse
import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from service.contracts.catalog import Catalog, Source, load_catalog
from service.contracts.evaluations import EvaluationJob
from service.contracts.events import Failed, Progress, Started
from service.contracts.jobs import EVENTS_FILE, SPEC_FILE
from worker.engine.evaluation.evaluator import Evaluator, Left
from worker.engine.evaluation.judges import JudgeFailed, load_judge
from worker.engine.evaluation.sampling import Drawer
from worker.engine.keepalive import PROGRESS_SECONDS, repeated
from worker.engine.models import check_model, load_model
from worker.engine.models.sources import fingerprint
from worker.engine.rewards import load_reward
from worker.engine.sampling import fastest_device, precision_on
from worker.engine.training.checkpoint import read_manifest
from worker.engine.training.event_log import EventWriter
from worker.entrypoints import train
from worker.entrypoints.parent import end_with_parent

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None, progress_seconds: float = PROGRESS_SECONDS) -> int:
    """Run and return the exit code: 0 after `finished`, 1 after `failed`, 2 where nothing was begun."""
    options = _parse(arguments)
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every answer tells nobody anything
    end_with_parent()
    if (options.out / EVENTS_FILE).exists():
        sys.stderr.write(f"{options.out} already holds an attempt; give --out a directory of its own\n")
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    events = EventWriter(options.out)
    try:
        job = EvaluationJob.model_validate_json(options.job.read_bytes())
        (options.out / SPEC_FILE).write_text(job.model_dump_json(), encoding="utf-8")
        done = len(job.done)

        def loading() -> None:
            events.write(Progress(step=done, max_steps=job.total_images, phase="loading"))

        loading()
        with repeated(loading, progress_seconds):
            device, catalog = fastest_device(options.device), load_catalog()
            evaluator = build_evaluator(job, catalog, events, device, options.checkpoint)
            started = Started(provenance=provenance(job, evaluator, catalog, device), resumed_at=done)
        events.write(started)
        events.write(evaluator.run())
        return 0
    except Exception as error:  # every cause becomes an event that the supervisor can show
        logger.exception("the evaluation failed")
        events.write(classify(error))
        return 1
    finally:
        events.close()


def build_evaluator(
    job: EvaluationJob, catalog: Catalog, events: EventWriter, device: torch.device, checkpoint: Path | None
) -> Evaluator:
    """What carries out `job`. A model is loaded where something is left to draw.

    ValueError or KeyError says what is wrong with the job, JudgeFailed what with its judge.
    """
    judge = load_judge(job.judge, job.benchmark) if job.judge else None
    left = Left.of(job, events.directory)
    drawer = None
    if left.asked:
        if (checkpoint is None) != (job.spec.checkpoint == "base"):
            raise ValueError(f"`checkpoint` is {job.spec.checkpoint}, --checkpoint is {checkpoint}: give both, or none")
        entry = catalog.model(job.spec.model)
        # All is read and looked at before the device is taken.
        rewards = {name: load_reward(catalog.reward(name), torch.device("cpu")) for name in job.spec.rewards}
        if checkpoint is not None:
            read_manifest(checkpoint)
        check_model(entry)
        for reward in rewards.values():
            reward.move(device)
        model = load_model(entry, device, precision_on(device, entry))
        model.check_prompts([prompt.text for prompt in job.benchmark.prompts])
        drawer = Drawer(job, model, rewards, events.directory, checkpoint)
    return Evaluator(job, left, drawer, judge, events)


def provenance(job: EvaluationJob, evaluator: Evaluator, catalog: Catalog, device: torch.device) -> dict[str, Any]:
    """What the attempt ran on and with: enough to say whether two attempts measured the same thing."""
    sources: dict[str, Source | None] = {}
    precision = None
    if evaluator.draws:  # else no weights are loaded, and need not even be here
        entry = catalog.model(job.spec.model)
        precision = precision_on(device, entry)
        sources[job.spec.model] = entry.source
        sources |= {name: catalog.reward(name).source for name in job.spec.rewards}
    words = job.benchmark.judge
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": precision and str(precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "process": os.getpid(),
        "python": sys.version.split()[0],
        "packages": {
            name: version(name) for name in ("g2rpo", "torch", "diffusers", "transformers", "peft", "pillow", "httpx")
        },
        "commit": train.git_commit(),
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
    """What went wrong and what to do about it."""
    match error:
        case JudgeFailed():
            return Failed(
                code="judge_failed",
                detail=str(error),
                hint="Mend the judge or its catalog entry; POST /evaluations/ID/resume keeps what was judged.",
            )
        case torch.OutOfMemoryError():
            return Failed(
                code="out_of_memory",
                detail=f"{type(error).__name__}: {error}",
                hint="Ask for a smaller `width` and `height`, or use a larger device.",
            )
        case _:
            failure = train.classify(error)
            hint = "Free disk space; POST /evaluations/ID/resume keeps what was drawn and judged."
            return failure.model_copy(update={"hint": hint}) if failure.code == "disk_full" else failure


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.entrypoints.evaluate", description=__doc__)
    parser.add_argument("job", type=Path, help="what is to be done, JSON: an EvaluationJob")
    parser.add_argument("--out", type=Path, required=True, help="directory for events and images")
    parser.add_argument("--device", help="torch device; default: cuda if there is one, else cpu")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="checkpoint directory; default: the base model")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
