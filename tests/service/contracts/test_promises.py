"""Names, defaults and numbers that clients and stored data rely on."""

import importlib
import pkgutil
from datetime import UTC, datetime

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

import service.contracts
from service.contracts.base import Moment
from service.contracts.benchmarks.official import FILES
from service.contracts.evaluations import EvaluationSpec
from service.contracts.events import CheckpointSaved, Started
from service.contracts.generations import GenerationSpec
from service.contracts.presets import PRESETS
from service.contracts.runs import RunSpec
from service.contracts.schedule import continuation_path
from service.contracts.status import JobStatus

MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(service.contracts.__path__, "service.contracts.")
]
MODELS = sorted(
    {
        model
        for module in MODULES
        for model in vars(module).values()
        if isinstance(model, type) and issubclass(model, BaseModel) and model.__module__.startswith("service.contracts")
    },
    key=lambda model: (model.__module__, model.__name__),
)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_contracts_refuse_unknown_fields_and_are_immutable(model: type[BaseModel]) -> None:
    assert (model.model_config.get("extra"), model.model_config.get("frozen")) == ("forbid", True)


def test_the_names_of_job_states_are_stable() -> None:
    stored = "queued starting running pausing paused cancelling interrupted succeeded failed cancelled"
    assert [status.value for status in JobStatus] == stored.split()


def test_optional_fields_of_events_have_defaults() -> None:
    saved = CheckpointSaved.model_validate({"step": 3, "directory": "checkpoints/step-000003"})
    assert (saved.request, saved.best) == (0, None)
    assert Started.model_validate({"provenance": {}}).resumed_at == 0


def test_the_default_seed_of_evaluations_is_that_of_unigenbench() -> None:
    assert EvaluationSpec().seed == 3407


def test_paths_of_official_files() -> None:
    paths = ("en", "en_long", "zh", "zh_long")
    assert [file.path for file in FILES] == [f"data/test_prompts_{path}.csv" for path in paths]
    assert [file.name for file in FILES] == [f"unigenbench-{path.replace('_', '-')}" for path in paths]
    assert [(file.language, file.length) for file in FILES] == [
        ("en", "short"),
        ("en", "long"),
        ("zh", "short"),
        ("zh", "long"),
    ]


@pytest.mark.parametrize("written", ["2026-01-31T12:00:00Z", "2026-01-31T13:00:00+01:00"])
def test_a_time_with_its_offset_is_accepted(written: str) -> None:
    assert TypeAdapter(Moment).validate_python(written) == datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize("written", ["2026-01-31T12:00:00", "1769860800", 1769860800, ""])
def test_a_time_without_offset_and_a_number_are_refused(written: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Moment).validate_python(written)


def test_checkpoints_must_be_distinct() -> None:
    spec = GenerationSpec.model_validate({"prompts": ["a"], "checkpoints": ["base"]})
    assert (spec.checkpoints, spec.total_images) == (("base",), 1)
    with pytest.raises(ValidationError, match="more than once"):
        GenerationSpec.model_validate({"prompts": ["a"], "checkpoints": ["base", "base"]})


@pytest.mark.parametrize("stride", [0, -1])
def test_a_stride_that_is_not_positive_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"stride {stride} is not positive"):
        continuation_path(8, 0, stride)


def test_errors_of_several_sections_are_reported_together() -> None:
    spec = {
        "sampling": {"steps": 1},
        "algorithm": {"sde_steps": [0], "updates_per_rollout": 3},
        "training": {"prompts_per_step": 4},
    }
    with pytest.raises(ValidationError) as refusal:
        RunSpec.model_validate(spec)
    assert {error["loc"][0] for error in refusal.value.errors()} == {"sampling", "training"}


def test_baselines_of_the_bundled_world_have_equal_lengths() -> None:
    baselines = [name for name in PRESETS if name.startswith("shapes-") and name.endswith("-grpo")]
    assert len(baselines) == 3
    assert {RunSpec(preset=name).training.max_steps for name in baselines} == {60}


def test_paper_presets_evaluate_every_tenth_step_on_64_pairs() -> None:
    papers = [name for name in PRESETS if not name.startswith("shapes")]
    sections = [RunSpec(preset=name).heldout for name in papers]
    assert {(one.every, one.pairs, one.final_pairs) for one in sections} == {(10, 64, 0)}
    assert {RunSpec(preset=name).training.seed for name in papers} == {42}
