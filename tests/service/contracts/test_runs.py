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


PUBLISHED: dict[str, dict[str, Any]] = {
    "dance-grpo": {
        "algorithm": {"name": "dance_grpo", "group_size": 12, "eta": 0.3, "timestep_fraction": 0.6}
        | {"updates_per_rollout": 3, "clip_range": 1e-4, "same_noise": True},
        "training": {"adapter": "full", "learning_rate": 1e-5, "max_steps": 300, "prompts_per_step": 16},
        "sampling": {"steps": 16, "width": 720, "height": 720, "shift": 3.0, "guidance": 3.5},
    },
    "mix-grpo": {
        "algorithm": {"name": "mix_grpo", "group_size": 12, "eta": 0.7, "flash": None}
        | {"window": {"size": 4, "order": "progressive", "every": 25, "stride": 1}}
        | {"updates_per_rollout": 4, "clip_range": 1e-4, "same_noise": True},
        "training": {"adapter": "full", "learning_rate": 1e-5, "max_steps": 300, "prompts_per_step": 16},
        "sampling": {"steps": 25, "width": 720, "height": 720, "shift": 3.0, "guidance": 3.5},
    },
    "mix-grpo-flash": {
        "algorithm": {"name": "mix_grpo", "group_size": 12, "eta": 0.7, "flash": {"share": 0.4}}
        | {"window": {"size": 4, "order": "progressive", "every": 20, "stride": 1}}
        | {"updates_per_rollout": 4, "clip_range": 1e-4, "same_noise": True},
        "training": {"adapter": "full", "learning_rate": 1e-5, "max_steps": 300, "prompts_per_step": 16},
        "sampling": {"steps": 25, "width": 720, "height": 720, "shift": 3.0, "guidance": 3.5},
    },
    "flow-grpo": {
        "algorithm": {"name": "flow_grpo", "group_size": 24, "eta": 0.9, "transition": "flow", "kl_weight": 0.0}
        | {"updates_per_rollout": 2, "clip_range": 1e-4, "same_noise": False},
        "training": {"adapter": "lora", "lora_rank": 64, "lora_alpha": 128.0, "learning_rate": 3e-4}
        | {"prompts_per_step": 48, "ema_decay": 0.9, "max_steps": 300},
        "sampling": {"steps": 6, "width": 512, "height": 512, "shift": 3.0, "guidance": 3.5},
    },
    "paper-no-mgai": {
        "algorithm": {"name": "g2rpo", "granularities": [1], "sde_steps": [0, 1, 2, 3, 4, 5, 6, 7], "group_size": 12},
        "training": {"adapter": "full", "learning_rate": 2e-6, "max_steps": 300, "update_batch_size": 1},
        "sampling": {"steps": 16, "width": 720, "height": 720, "rollout_batch_size": 12, "decode_batch_size": 4},
    },
    "paper-lora": {
        "algorithm": {"name": "g2rpo", "granularities": [1, 2, 3], "eta": 0.7},
        "training": {"adapter": "lora", "lora_rank": 64, "lora_alpha": 128.0, "learning_rate": 2e-5}
        | {"gradient_checkpointing": True, "max_steps": 300, "prompts_per_step": 16},
        "sampling": {"steps": 16, "width": 720, "height": 720},
    },
    "shapes-no-mgai": {"algorithm": {"name": "g2rpo", "granularities": [1]}},
    "shapes-dance-grpo": {"algorithm": {"name": "dance_grpo"}, "training": {"learning_rate": 3e-4}},
    "shapes-mix-grpo": {"algorithm": {"name": "mix_grpo"}, "training": {"learning_rate": 1e-3}},
    "shapes-flow-grpo": {"algorithm": {"name": "flow_grpo"}, "training": {"learning_rate": 1e-3}},
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_presets_of_baselines_have_the_published_values(preset: str) -> None:
    spec = RunSpec(preset=preset).model_dump(mode="json")
    for section, values in PUBLISHED[preset].items():
        assert {name: spec[section][name] for name in values} == values
    assert PUBLISHED.keys() | {"shapes", "paper"} == PRESETS.keys()


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
