"""The run spec: presets, merging and validation errors."""

from typing import Any

import pytest
from pydantic import ValidationError

from service.contracts.catalog import load_catalog
from service.contracts.generations import GenerationSpec
from service.contracts.plan import make_plan
from service.contracts.presets import PRESETS
from service.contracts.runs import RunSpec


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_spec_with_a_plan(preset: str) -> None:
    plan = make_plan(RunSpec(preset=preset), load_catalog())
    assert plan.total_nfe > 0
    assert plan.memory is not None


def test_the_paper_preset_is_the_supplements_table() -> None:
    spec = RunSpec(preset="paper")
    algorithm, training, sampling = spec.algorithm, spec.training, spec.sampling
    assert (training.seed, training.sampler_seed, training.learning_rate) == (42, 1223627, 2e-6)
    assert (training.weight_decay, training.warmup_steps, training.max_grad_norm) == (1e-4, 0, 1.0)
    assert (sampling.steps, sampling.shift, sampling.width, sampling.guidance) == (16, 3.0, 720, 3.5)
    assert (algorithm.eta, algorithm.group_size, algorithm.clip_range) == (0.7, 12, 1e-4)
    assert (algorithm.granularities, algorithm.sde_steps) == ((1, 2, 3), tuple(range(8)))
    assert algorithm.advantage.clip_max == 5.0
    assert training.adapter == "full"


def test_the_plan_of_the_paper_has_1708_instead_of_2188_nfe() -> None:
    plan = make_plan(RunSpec(preset="paper"), load_catalog())
    assert (plan.per_prompt.total, plan.naive_per_prompt.total) == (1708, 2188)
    assert plan.paper_formula.total == 179
    assert any("hps_v2.1" in warning for warning in plan.warnings)


def test_explicit_fields_override_those_of_the_preset() -> None:
    spec = RunSpec.model_validate({"preset": "paper", "algorithm": {"group_size": 4}, "training": {"max_steps": 2}})
    assert (spec.algorithm.group_size, spec.algorithm.sde_steps) == (4, tuple(range(8)))
    assert (spec.training.max_steps, spec.training.learning_rate) == (2, 2e-6)


def test_resolving_a_resolved_spec_changes_nothing() -> None:
    spec = RunSpec.model_validate({"preset": "shapes-no-mgai", "training": {"seed": 3}})
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"sampling": {"steps": 4}}, "algorithm"),
        ({"algorithm": {"sde_steps": [7]}}, "algorithm"),
        ({"algorithm": {"granularities": [0]}}, "granularities"),
        ({"algorithm": {"granularities": [2, 2]}}, "granularities"),
        ({"algorithm": {"group_size": 1}}, "group_size"),
        ({"algorithm": {"eta": 0}}, "eta"),
        ({"prompts": {"items": []}}, "items"),
        ({"prompts": {"items": ["x" * 2001]}}, "items"),
        ({"prompts": {}}, "prompts"),
        ({"rewards": [{"name": "clip_score", "weight": 0}]}, "weight"),
        ({"rewards": [{"name": "clip_score"}, {"name": "clip_score"}]}, "rewards"),
        ({"preset": "nonsense"}, "preset"),
        ({"training": {"learning_rate": float("nan")}}, "learning_rate"),
        ({"color": "red"}, "color"),
    ],
)
def test_errors_have_the_location_of_the_field(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        RunSpec.model_validate(changes)
    assert any(place in map(str, error["loc"]) for error in refusal.value.errors())


def test_seeds_of_all_images_fit_the_database() -> None:
    highest = 2**63 - 65
    assert GenerationSpec(prompts=("a",), seed=highest, num_images=64).seed + 63 < 2**63
    with pytest.raises(ValidationError, match="seed"):
        GenerationSpec(prompts=("a",), seed=highest + 1)
