"""Names, defaults and numbers that clients and stored data rely on."""

import importlib
import pkgutil
from datetime import UTC, datetime
from typing import get_args

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

import service.contracts
from service.contracts.algorithms import G2RPO, DanceGRPO, FlowGRPO, MixGRPO
from service.contracts.algorithms.mix_grpo import Flash, Window
from service.contracts.attempt_files import CONTROL_FILE, ENCODINGS, EVENTS_FILE, LOG_FILE, MANIFEST_FILE, SPEC_FILE
from service.contracts.base import Moment, Prompt
from service.contracts.benchmarks.bundled import BUNDLED
from service.contracts.benchmarks.data import BenchmarkPrompt
from service.contracts.benchmarks.judge_answers import Failure
from service.contracts.benchmarks.official import FILES
from service.contracts.evaluations import EvaluationSpec
from service.contracts.events import (
    CheckpointSaved,
    Failed,
    Finished,
    Metrics,
    Progress,
    RewardGroups,
    Sample,
    Started,
)
from service.contracts.generations import GenerationSpec
from service.contracts.presets import PRESETS
from service.contracts.runs import RunSpec
from service.contracts.schedule import continuation_path
from service.contracts.status import JobStatus

ALGORITHMS = (G2RPO, DanceGRPO, MixGRPO, FlowGRPO)
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


def test_defaults_of_a_run() -> None:
    spec = RunSpec().model_dump(mode="json")
    assert spec["sampling"] == {
        "steps": 8,
        "shift": 3.0,
        "width": 32,
        "height": 32,
        "guidance": 3.5,
        "rollout_batch_size": 96,
        "decode_batch_size": 96,
        "compile": False,
    }
    training = {"max_steps": 45, "prompts_per_step": 8, "update_batch_size": 8, "precision": "auto", "ema_decay": None}
    training |= {"learning_rate": 7e-4, "weight_decay": 1e-4, "beta1": 0.9, "beta2": 0.999, "max_grad_norm": 1.0}
    training |= {"warmup_steps": 0, "lr_schedule": "constant", "lr_end_factor": 0.0, "gradient_checkpointing": False}
    training |= {"max_nonfinite_updates": 3, "max_missing_rewards": 0.5, "max_missing_steps": 3}
    training |= {"adapter": "lora", "lora_rank": 16, "lora_alpha": 16.0, "seed": 42, "sampler_seed": 1223627}
    assert spec["training"] == training
    heldout = {"every": 5, "prompts": "shapes-heldout", "pairs": 128, "final_pairs": 1024, "samples": 8, "seed": 7}
    assert spec["heldout"] == heldout | {"rewards": None, "early_stop": None, "group_images_mib": 16.0}
    assert spec["checkpoints"] == {"every": 20, "keep": None, "best": None}
    assert spec["resources"] == {"nodes": 1, "processes_per_node": 1, "offload_rewards": False}
    assert spec["limits"] == {"wall_clock_seconds": None, "progress_timeout_seconds": None}
    assert (spec["priority"], spec["model"], spec["prompts"]["set"]) == (0, "shapes-flux", "shapes-train")
    rewards = [{"name": "clip_score", "weight": 1.0}, {"name": "shapes_verifier", "weight": 1.0}]
    assert spec["rewards"] == rewards


def test_only_the_default_algorithm_may_be_given_without_its_name() -> None:
    required = {
        algorithm.model_fields["name"].default: "name" in algorithm.model_json_schema().get("required", [])
        for algorithm in ALGORITHMS
    }
    assert required == {"g2rpo": False, "dance_grpo": True, "mix_grpo": True, "flow_grpo": True}


def test_names_of_the_files_of_an_attempt() -> None:
    assert (SPEC_FILE, EVENTS_FILE, LOG_FILE) == ("spec.json", "events.jsonl", "log.txt")
    assert (CONTROL_FILE, MANIFEST_FILE, ENCODINGS) == ("control.json", "manifest.json", "encodings")


def test_a_benchmark_prompt_has_a_point() -> None:
    texts = dict.fromkeys(("text", "category", "subcategory", "subject", "sentence_structure"), "x")
    with pytest.raises(ValidationError, match="points"):
        BenchmarkPrompt.model_validate({"index": 0, **texts, "points": []})


def test_paper_presets_compile_the_model() -> None:
    assert {RunSpec(preset=name).sampling.compile for name in PRESETS if not name.startswith("shapes")} == {True}


def test_types_of_events_are_stable_and_the_defaults() -> None:
    types = {
        Started: "started",
        Progress: "progress",
        Metrics: "metrics",
        RewardGroups: "reward_groups",
        Sample: "sample",
        CheckpointSaved: "checkpoint",
        Finished: "finished",
        Failed: "failed",
    }
    for event, name in types.items():
        field = event.model_fields["type"]
        assert (field.default, get_args(field.annotation)) == (name, (name,))


def test_defaults_of_the_algorithms() -> None:
    updates = {algorithm.model_fields["name"].default: algorithm().updates_per_rollout for algorithm in ALGORITHMS}
    assert updates == {"g2rpo": 1, "dance_grpo": 3, "mix_grpo": 4, "flow_grpo": 2}
    etas = {algorithm.model_fields["name"].default: algorithm().eta for algorithm in ALGORITHMS}
    assert etas == {"g2rpo": 0.7, "dance_grpo": 0.3, "mix_grpo": 0.7, "flow_grpo": 0.9}
    assert DanceGRPO().timestep_fraction == 0.6 and Flash().share == 0.4 and not FlowGRPO().same_noise
    assert Window() == Window(size=4, order="progressive", every=25, stride=1)


def test_names_of_unusable_answers_are_stable() -> None:
    stored = "no_answer no_scores several_scores not_a_list not_binary wrong_count"
    assert [failure.value for failure in Failure] == stored.split()


def test_defaults_of_an_evaluation() -> None:
    spec = EvaluationSpec()
    assert (spec.model, spec.checkpoint, spec.benchmark, spec.judge) == ("shapes-flux-2", "base", BUNDLED, "perception")
    assert (spec.num_images, spec.limit, spec.rewards) == (4, None, ())


@pytest.mark.parametrize(
    ("text", "allowed"), [("a", True), (" a ", True), ("x" * 2000, True), ("", False), ("  ", False), ("a\0", False)]
)
def test_a_prompt_has_a_character_besides_spaces(text: str, allowed: bool) -> None:
    prompt = TypeAdapter(Prompt)
    if allowed:
        assert prompt.validate_python(text) == text.strip()
        return
    with pytest.raises(ValidationError):
        prompt.validate_python(text)
