"""Validation of the algorithm section and of fields that depend on it: location and message of the errors."""

from typing import Any

import pytest
from pydantic import ValidationError

from service.contracts.algorithms import CONTRACTS
from service.contracts.runs import RunSpec
from service.contracts.validation_errors import describe

MIX = {"name": "mix_grpo"}
NAMES = "g2rpo, dance_grpo, mix_grpo, flow_grpo"

REFUSALS: list[tuple[dict[str, Any], tuple[str | int, ...], list[str]]] = [
    # changes, location (without the name of the contract), parts of the message
    ({"algorithm": {**MIX, "window": {"size": 8}}}, ("algorithm",), ["window.size 8", "allowed: 1 to 7"]),
    ({"algorithm": {**MIX, "window": {"stride": 0}}}, ("algorithm", "window", "stride"), ["or equal to 1"]),
    ({"algorithm": {**MIX, "window": {"every": 0}}}, ("algorithm", "window", "every"), ["or equal to 1"]),
    ({"algorithm": {**MIX, "flash": {"share": 0}}}, ("algorithm", "flash", "share"), ["greater than 0"]),
    ({"algorithm": {**MIX, "flash": {"share": 1.5}}}, ("algorithm", "flash", "share"), ["or equal to 1"]),
    ({"algorithm": {"granularities": [2, 2]}}, ("algorithm", "granularities"), ["2 given more than once"]),
    ({"algorithm": {"granularities": [0]}}, ("algorithm", "granularities", 0), ["or equal to 1"]),
    ({"algorithm": {"granularities": [-1, 1]}}, ("algorithm", "granularities", 0), ["or equal to 1"]),
    ({"algorithm": {"sde_steps": [0, 7]}}, ("algorithm",), ["sde_steps [7]", "allowed: 0 to 6"]),
    (
        {"algorithm": {"name": "dance_grpo", "timestep_fraction": 0}},
        ("algorithm", "timestep_fraction"),
        ["greater than 0"],
    ),
    (
        {"algorithm": {"name": "flow_grpo", "transition": "cps", "eta": 1.5}},
        ("algorithm",),
        ["eta 1.5", "must be above 0 and at most 1"],
    ),
    (
        {"algorithm": {"name": "flow_grpo", "transition": "dance"}},
        ("algorithm", "transition"),
        ["'flow' or 'cps'"],
    ),
    (
        {"algorithm": {"name": "dance_grpo", "window": {}}},
        ("algorithm", "window"),
        ["Unknown field 'window' in algorithm", "Allowed: name, group_size"],
    ),
    ({"algorithm": {"name": "ppo"}}, ("algorithm",), ["Unknown algorithm 'ppo'", f"name is one of {NAMES}"]),
    ({"algorithm": {"name": None}}, ("algorithm",), ["Unknown algorithm", f"name is one of {NAMES}"]),
    ({"algorithm": {"name": 3}}, ("algorithm",), ["Unknown algorithm 3", f"name is one of {NAMES}"]),
    ({"algorithm": "g2rpo"}, ("algorithm",), ["Unknown algorithm", f"name is one of {NAMES}"]),
    ({"algorithm": []}, ("algorithm",), ["Unknown algorithm", f"name is one of {NAMES}"]),
    (
        {"algorithm": {"updates_per_rollout": 3}},
        ("training",),
        ["algorithm.updates_per_rollout 3", "must be a divisor of 32, the number of groups of one SDE step"],
    ),
    (
        {"algorithm": {"name": "dance_grpo", "group_size": 4, "updates_per_rollout": 5}},
        ("training",),
        ["algorithm.updates_per_rollout 5", "must be a divisor of 32, the number of chains"],
    ),
    (
        {"algorithm": {"updates_per_rollout": 8}, "resources": {"processes_per_node": 8}},
        ("resources",),
        ["algorithm.updates_per_rollout 8", "must be a divisor of 4, the number of groups", "per process"],
    ),
    (
        {"resources": {"processes_per_node": 3}},
        ("resources",),
        ["processes_per_node 3", "must be a divisor of training.prompts_per_step 8"],
    ),
    (
        {"algorithm": {"kl_weight": 0.5}, "training": {"adapter": "full"}},
        ("training",),
        ["adapter full", "algorithm.kl_weight 0.5", "allowed: adapter lora, or kl_weight 0"],
    ),
    (
        {"heldout": {"early_stop": {"reward": "beauty"}}},
        ("heldout",),
        ["early_stop.reward 'beauty'", "allowed: clip_score, shapes_verifier"],
    ),
    (
        {"heldout": {"rewards": ["clip_score"], "early_stop": {"reward": "shapes_verifier"}}},
        ("heldout",),
        ["early_stop.reward 'shapes_verifier'", "allowed: clip_score"],
    ),
    (
        {"checkpoints": {"best": "beauty"}},
        ("checkpoints",),
        ["best 'beauty'", "allowed: clip_score, shapes_verifier"],
    ),
    (
        {"checkpoints": {"best": "clip_score"}, "heldout": {"every": 0}},
        ("checkpoints",),
        ["best 'clip_score'", "heldout.every is 0", "must be above 0"],
    ),
]


@pytest.mark.parametrize(("changes", "place", "says"), REFUSALS)
def test_an_error_contains_field_value_and_allowed_values(
    changes: dict[str, Any], place: tuple[str | int, ...], says: list[str]
) -> None:
    with pytest.raises(ValidationError) as refusal:
        RunSpec.model_validate({"sampling": {"steps": 8}, "training": {"prompts_per_step": 8}, **changes})
    messages = [error.msg for error in describe(refusal.value.errors(), RunSpec) if error.loc == place]
    assert any(all(words in message for words in says) for message in messages), refusal.value.errors()


@pytest.mark.parametrize("name", CONTRACTS)
def test_each_algorithm_has_defaults(name: str) -> None:
    spec = RunSpec.model_validate({"algorithm": {"name": name}, "training": {"prompts_per_step": 8}})
    assert spec.algorithm.name == name
    assert type(spec.algorithm) is CONTRACTS[name]
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec


def test_an_algorithm_without_a_name_is_g2rpo() -> None:
    assert RunSpec.model_validate({"algorithm": {"group_size": 4}}).algorithm.name == "g2rpo"


def test_another_algorithm_ignores_the_fields_of_the_preset() -> None:
    spec = RunSpec.model_validate({"preset": "paper", "algorithm": {"name": "mix_grpo"}})
    assert spec.algorithm == CONTRACTS["mix_grpo"]()
