"""Compare the results of succeeded jobs with those of the same jobs without faults. Checks yield differences."""

import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.client import Client
from service.contracts.attempt_files import MANIFEST_FILE
from service.contracts.evaluations import EvaluationJob
from service.contracts.status import JobStatus
from service.db import evaluation_scores
from service.db.models import (
    Checkpoint,
    Evaluation,
    EvaluationAnswer,
    EvaluationImage,
    Generation,
    GenerationImage,
    Metric,
    RewardGroup,
    Run,
    Sample,
    Score,
    ScoreImage,
)
from service.db.session import Database
from tests.faults.references import Reference, References, timed
from tests.faults.system import System
from tests.faults.users import REWARDS

_ROUNDING = 1e-6
"""Tolerance of rewards of an evaluation in two parts, because other batches differ in the last bits."""


class Comparison:
    """The differences of one idle system; `compared` counts the comparisons."""

    def __init__(
        self, system: System, database: Database, references: References, compared: defaultdict[str, int]
    ) -> None:
        self._system, self._database, self._references, self.compared = system, database, references, compared

    def results(self) -> Iterator[str]:
        """Compare runs: metrics, reward groups, samples, held-out rewards, checkpoints and curves, bit by bit."""
        with self._database.transaction() as session:
            runs = session.scalars(select(Run).where(Run.status == JobStatus.SUCCEEDED).order_by(Run.id)).all()
        with Client(self._system.stack.url, patience=60.0) as client:
            for run in runs:
                self.compared["runs against their reference"] += 1
                reference = self._reference(run)
                yield from (f"run {run.id} ({run.name}): {one}" for one in self._differences(run, reference, client))

    def _reference(self, run: Run) -> Reference:
        start = None
        if run.start_from is not None:
            with self._database.transaction() as session:
                from_ = session.get_one(Checkpoint, run.start_from)
                parent = session.get_one(Run, from_.run_id)
            start = self._reference(parent).checkpoint(from_.step)
        return self._references.of(run.spec, run.max_steps, start)

    def _differences(self, run: Run, reference: Reference, client: Client) -> Iterator[str]:
        with self._database.transaction() as session:
            metrics = _newest(session, Metric, run.id, ("name", "step"))
            groups = _newest(
                session, RewardGroup, run.id, ("step", "prompt_index", "sde_step", "granularity", "reward")
            )
            samples = _newest(session, Sample, run.id, ("step", "kind", "index"))
            checkpoints = session.scalars(
                select(Checkpoint).where(Checkpoint.run_id == run.id, Checkpoint.deleted_at.is_(None))
            ).all()
        values = {key: row.value for key, row in metrics.items() if not timed(key[0])}
        yield from _compare("metrics", values, reference.metrics)
        found = {key: (row.prompt, _single(row.values)) for key, row in groups.items()}
        wanted = {key: (prompt, _single(of_group)) for key, (prompt, of_group) in reference.groups.items()}
        yield from _compare("reward groups", found, wanted)
        if mixed := [step for step, by in _attempts_by_step(groups).items() if len(by) > 1]:
            yield f"the newest reward groups of the steps {mixed} come from several attempts"
        yield from _compare("samples", {key: row.sha256 for key, row in samples.items()}, reference.samples)
        if run.heldout != reference.heldout:
            yield f"heldout is {run.heldout}, not {reference.heldout}"
        last = [one for one in checkpoints if one.step == run.max_steps]
        if not last:
            yield f"there is no checkpoint after the last step, {run.max_steps}"
        for one in checkpoints:
            yield from self._checkpoint(one, reference.checkpoint(one.step))
        for curve in client.curves(run.id).curves:
            if not timed(curve.name):
                steps = sorted(step for name, step in reference.metrics if name == curve.name)
                if list(curve.steps) != steps:
                    yield f"the curve {curve.name} has the steps {curve.steps}, not {steps}"
        self.compared["metric values"] += len(values)
        self.compared["reward groups"] += len(found)

    def _checkpoint(self, row: Checkpoint, reference: Path) -> Iterator[str]:
        directory = self._system.artifacts / row.key
        missing = [one["name"] for one in row.manifest["files"] if not (directory / one["name"]).is_file()]
        if missing or not (directory / MANIFEST_FILE).is_file():
            yield f"checkpoint {row.key} lacks {missing or MANIFEST_FILE}"
            return
        if row.step == 0 and not reference.is_dir():
            return  # paused before the first step
        for file in sorted(reference.glob("*.safetensors")):
            found, wanted = load_file(directory / file.name), load_file(file)
            different = [
                name for name in wanted.keys() | found.keys()
                if name not in wanted or name not in found or not _identical(found[name], wanted[name])
            ]  # fmt: skip
            self.compared["tensors of checkpoints"] += len(wanted)
            if different:
                yield f"{row.key}/{file.name}: {len(different)} tensors differ, such as {sorted(different)[0]}"

    def images_and_scores(self) -> Iterator[str]:
        """Compare generations and scorings."""
        with self._database.transaction() as session:
            done = session.scalars(select(Generation).where(Generation.status == JobStatus.SUCCEEDED)).all()
            images = session.scalars(select(GenerationImage).order_by(GenerationImage.number)).all()
            scores = session.scalars(select(Score).where(Score.status == JobStatus.SUCCEEDED)).all()
            scored = session.scalars(select(ScoreImage).order_by(ScoreImage.number)).all()
        generated = self._references.images([(one.spec, dict(self._drawn(one))) for one in done], REWARDS)
        for generation, (wanted, values) in zip(done, generated, strict=True):
            found = [image.sha256 for image in images if image.generation_id == generation.id]
            self.compared["images"] += len(wanted)
            if found != wanted:
                differ = sum(a != b for a, b in zip(found, wanted, strict=False))
                yield f"generation {generation.id}: {len(found)} of {len(wanted)} images, {differ} of them differ"
            for score in (one for one in scores if one.spec["generation"] == str(generation.id)):
                values_by_image = [image.values for image in scored if image.score_id == score.id]
                self.compared["scored images"] += len(values_by_image)
                if [[one["value"] for one in of_image or ()] for of_image in values_by_image] != values:
                    yield f"score {score.id}: {len(values_by_image)} of {len(values)} images, or other values"

    def evaluations(self) -> Iterator[str]:
        """Compare images, answers and rewards of evaluations."""
        with self._database.transaction() as session:
            rows = session.scalars(select(Evaluation).where(Evaluation.status == JobStatus.SUCCEEDED)).all()
            for row in rows:
                benchmark = evaluation_scores.benchmark_of(session, row)
                job = {"spec": row.spec, "benchmark": benchmark, "judge": row.judge, "pending": (), "done": ()}
                wanted = self._references.judged(EvaluationJob.model_validate(job))
                own = (EvaluationImage.evaluation_id == row.id, EvaluationAnswer.evaluation_id == row.id)
                images = session.scalars(select(EvaluationImage).where(own[0])).all()
                stored_answers = session.scalars(select(EvaluationAnswer).where(own[1])).all()
                self.compared["images that were evaluated"] += len(images)
                hashes = {(one.index, one.image_index): one.sha256 for one in images}
                scores = {(one.index, one.image_index, one.number): tuple(one.scores or ()) for one in stored_answers}
                about = f"evaluation {row.id}"
                yield from (f"{about}: {one}" for one in _compare("images", hashes, wanted.images))
                yield from (f"{about}: {one}" for one in _compare("answers", scores, wanted.answers))
                for one in images:
                    expected = wanted.rewards.get((one.index, one.image_index), {})
                    if one.rewards != pytest.approx(expected, abs=_ROUNDING):
                        yield f"{about}: image {one.index}_{one.image_index} has {one.rewards}, not {expected}"

    def _drawn(self, generation: Generation) -> Iterator[tuple[str, Path | None]]:
        for name in generation.spec["checkpoints"]:
            if name == "base":
                yield name, None
                continue
            with self._database.transaction() as session:
                row = session.get_one(Checkpoint, uuid.UUID(name))
                run = session.get_one(Run, row.run_id)
            yield name, self._reference(run).checkpoint(row.step)


def _newest(session: Session, model: Any, run: uuid.UUID, key: tuple[str, ...]) -> dict[Any, Any]:
    """The rows of a run by key; the newest attempt has priority."""
    rows = session.scalars(select(model).where(model.run_id == run).order_by(model.attempt))
    return {tuple(getattr(row, name) for name in key): row for row in rows}


def _attempts_by_step(groups: dict[Any, Any]) -> dict[int, set[int]]:
    found: dict[int, set[int]] = defaultdict(set)
    for key, row in groups.items():
        found[key[0]].add(row.attempt)
    return found


def _single(values: list[float | None]) -> list[float | None]:
    """Round to single precision, as in the database."""
    return [None if value is None else float(np.float32(value)) for value in values]


def _compare(what: str, found: dict[Any, Any], wanted: dict[Any, Any]) -> Iterator[str]:
    if missing := sorted(wanted.keys() - found.keys()):
        yield f"{len(missing)} {what} are missing, such as {missing[0]}"
    if extra := sorted(found.keys() - wanted.keys()):
        yield f"{len(extra)} {what} too many, such as {extra[0]}"
    if differ := sorted(key for key in found.keys() & wanted.keys() if found[key] != wanted[key]):
        first = differ[0]
        yield f"{len(differ)} {what} differ, such as {first}: {found[first]} instead of {wanted[first]}"


def _identical(one: "np.ndarray[Any, Any]", other: "np.ndarray[Any, Any]") -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
