"""The documented bounds: the minimum and maximum are allowed, and the values just outside them are rejected."""

import math
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError

from service.contracts.base import Contract
from service.contracts.evaluations import EvaluationSpec
from service.contracts.generations import GenerationSpec
from service.contracts.runs import RunSpec
from service.contracts.scores import ScoreSpec

ABOVE, BELOW = "above", "below"
"""Distance to an exclusive bound."""

SEED = 2**63 - 1
PIXELS = (16, 4096)
OF_A_RUN: dict[str, tuple[Any, Any]] = {
    "sampling.steps": (2, 200),
    "sampling.shift": (0.1, 20.0),
    "sampling.width": PIXELS,
    "sampling.height": PIXELS,
    "sampling.guidance": (0.0, 30.0),
    "sampling.rollout_batch_size": (1, 1024),
    "sampling.decode_batch_size": (1, 1024),
    "training.max_steps": (1, 1_000_000),
    "training.prompts_per_step": (1, 1024),
    "training.learning_rate": ((ABOVE, 0.0), 1.0),
    "training.weight_decay": (0.0, 1.0),
    "training.beta1": (0.0, (BELOW, 1.0)),
    "training.beta2": (0.0, (BELOW, 1.0)),
    "training.warmup_steps": (0, 100_000),
    "training.lr_end_factor": (0.0, 1.0),
    "training.ema_decay": ((ABOVE, 0.0), (BELOW, 1.0)),
    "training.max_nonfinite_updates": (1, 1000),
    "training.max_missing_rewards": (0.0, 1.0),
    "training.max_missing_steps": (1, 1000),
    "training.max_grad_norm": ((ABOVE, 0.0), 1e6),
    "training.lora_rank": (1, 1024),
    "training.lora_alpha": ((ABOVE, 0.0), 1e6),
    "training.update_batch_size": (1, 1024),
    "training.seed": (0, SEED),
    "training.sampler_seed": (0, SEED),
    "heldout.every": (0, 1_000_000),
    "heldout.pairs": (1, 100_000),
    "heldout.final_pairs": (0, 100_000),
    "heldout.seed": (0, SEED),
    "heldout.samples": (0, 64),
    "heldout.early_stop.patience": (1, 10_000),
    "heldout.early_stop.min_delta": (0.0, 1000.0),
    "checkpoints.every": (0, 1_000_000),
    "checkpoints.keep": (1, 10_000),
    "resources.processes_per_node": (1, 64),
    "limits.wall_clock_seconds": (1.0, 10_000_000.0),
    "limits.progress_timeout_seconds": (60.0, 86_400.0),
    "priority": (-100, 100),
    "algorithm.group_size": (2, 256),
    "algorithm.eta": ((ABOVE, 0.0), 2.0),
    "algorithm.clip_range": ((ABOVE, 0.0), 1.0),
    "algorithm.kl_weight": (0.0, 1000.0),
    "algorithm.updates_per_rollout": (1, 1024),
    "algorithm.advantage.clip_max": ((ABOVE, 0.0), 100.0),
    "algorithm.advantage.std_eps": (0.0, 1.0),
    "algorithm.advantage.std_floor": (0.0, 1.0),
}
OF_ALGORITHMS: dict[str, dict[str, tuple[Any, Any]]] = {
    "dance_grpo": {
        "eta": ((ABOVE, 0.0), 2.0),
        "timestep_fraction": ((ABOVE, 0.0), 1.0),
        "updates_per_rollout": (1, 1024),
    },
    "mix_grpo": {
        "window.size": (1, 198),
        "window.every": (1, 1_000_000),
        "window.stride": (1, 198),
        "flash.share": ((ABOVE, 0.0), 1.0),
        "updates_per_rollout": (1, 1024),
    },
    "flow_grpo": {"eta": ((ABOVE, 0.0), 2.0), "updates_per_rollout": (1, 1024)},
}
"""Fields of each algorithm that G²RPO does not have or bounds differently."""
OF_IMAGES: dict[str, tuple[Any, Any]] = {
    "seed": (0, 2**63 - 65),
    "steps": (1, 200),
    "guidance": (0.0, 30.0),
    "width": (16, 4096),
    "height": (16, 4096),
}


def _cases() -> Iterator[tuple[type[Contract], str, dict[str, Any], tuple[Any, Any]]]:
    for place, bounds in OF_A_RUN.items():
        yield RunSpec, place, {}, bounds
    for name, fields in OF_ALGORITHMS.items():
        for field, bounds in fields.items():
            yield RunSpec, f"algorithm.{field}", {"algorithm": {"name": name}}, bounds
    for field, bounds in OF_IMAGES.items():
        yield GenerationSpec, field, {"prompts": ["a"]}, bounds
        yield EvaluationSpec, field, {}, bounds
    yield GenerationSpec, "num_images", {"prompts": ["a"]}, (1, 64)
    yield EvaluationSpec, "num_images", {}, (1, 16)
    yield EvaluationSpec, "limit", {}, (1, 1_000_000)


def _refused_at(contract: type[Contract], place: str, base: dict[str, Any], value: Any) -> bool:
    """Whether `value` is outside the field's bounds. Values within them may be incompatible with other fields."""
    *above, name = place.split(".")
    values: dict[str, Any] = {**base}
    here = values
    for part in above:
        here[part] = dict(here.get(part, {"reward": "clip_score"} if part == "early_stop" else {}))
        here = here[part]
    here[name] = value
    try:
        contract.model_validate(values)
    except ValidationError as refusal:
        kinds = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
        return any(error["type"] in kinds and error["loc"][-1] == name for error in refusal.errors())
    return False


def _next(place: str, value: Any, by: int) -> Any:
    """The number next to `value`: 1 away for integers, 16 for pixels."""
    by *= 16 if place.endswith(("width", "height")) else 1
    return value + by if isinstance(value, int) else math.nextafter(value, by * math.inf)


@pytest.mark.parametrize(
    ("contract", "place", "base", "bounds"),
    [
        pytest.param(*case, id=f"{case[0].__name__}-{case[1]}-{case[2].get('algorithm', {}).get('name', '')}")
        for case in _cases()
    ],
)
def test_bounds_of_fields(contract: type[Contract], place: str, base: dict[str, Any], bounds: tuple[Any, Any]) -> None:
    for bound, outwards in zip(bounds, (-1, 1), strict=True):
        outside = isinstance(bound, tuple)
        inner = _next(place, bound[1], -outwards) if outside else bound
        outer = bound[1] if outside else _next(place, bound, outwards)
        assert not _refused_at(contract, place, base, inner), f"{inner} is allowed"
        assert _refused_at(contract, place, base, outer), f"{outer} is not allowed"


@pytest.mark.parametrize(
    ("place", "item", "lowest", "highest"),
    [
        ("rewards", lambda n: {"name": f"r{n}"}, 1, 8),
        ("algorithm.granularities", lambda n: n + 1, 1, 8),
        ("algorithm.sde_steps", lambda n: n, 1, 64),
        ("heldout.rewards", lambda n: f"r{n}", 1, 8),
        ("prompts.items", lambda n: f"a {n}", 1, 10_000),
    ],
)
def test_lengths_of_lists_of_a_run(place: str, item: Any, lowest: int, highest: int) -> None:
    *above, name = place.split(".")
    for count, allowed in ((lowest - 1, False), (lowest, True), (highest, True), (highest + 1, False)):
        values: Any = {name: [item(n) for n in range(count)]}
        for part in reversed(above):
            values = {part: values}
        values = {"sampling": {"steps": 200}, **values}
        assert (_too_many_or_few(RunSpec, values) == set()) is allowed, count


@pytest.mark.parametrize(
    ("contract", "field", "item", "lowest", "highest"),
    [
        (GenerationSpec, "checkpoints", lambda n: str(uuid4()), 1, 8),
        (GenerationSpec, "prompts", lambda n: "a", 1, 256),
        (ScoreSpec, "rewards", lambda n: f"r{n}", 1, 16),
        (ScoreSpec, "images", lambda n: {"prompt": "a", "image": "aa"}, 1, 4096),
        (EvaluationSpec, "rewards", lambda n: f"r{n}", 0, 8),
    ],
)
def test_lengths_of_lists_of_other_jobs(
    contract: type[Contract], field: str, item: Any, lowest: int, highest: int
) -> None:
    for count, allowed in ((lowest - 1, False), (lowest, True), (highest, True), (highest + 1, False)):
        if count >= 0:
            assert (_too_many_or_few(contract, {field: [item(n) for n in range(count)]}) == set()) is allowed, count


def _too_many_or_few(contract: type[Contract], values: dict[str, Any]) -> set[Any]:
    try:
        contract.model_validate(values)
    except ValidationError as refusal:
        return {error["loc"] for error in refusal.errors() if error["type"] in {"too_long", "too_short"}}
    return set()


@pytest.mark.parametrize(("granularity", "allowed"), [(0, False), (1, True), (64, True), (65, False)])
def test_a_granularity_is_1_to_64(granularity: int, allowed: bool) -> None:
    assert _valid({"algorithm": {"granularities": [granularity]}}) is allowed


@pytest.mark.parametrize(("step", "allowed"), [(-1, False), (0, True), (198, True), (199, False)])
def test_an_sde_step_is_0_to_198(step: int, allowed: bool) -> None:
    assert _valid({"sampling": {"steps": 200}, "algorithm": {"sde_steps": [step]}}) is allowed


@pytest.mark.parametrize("weight", [-100.0, 100.0])
def test_a_weight_lies_between_minus_100_and_100(weight: float) -> None:
    assert not _valid({"rewards": [{"name": "clip_score", "weight": weight}]})
    assert _valid({"rewards": [{"name": "clip_score", "weight": math.nextafter(weight, 0)}]})


@pytest.mark.parametrize(("length", "allowed"), [(200, True), (201, False)])
def test_a_name_has_up_to_200_characters(length: int, allowed: bool) -> None:
    assert _valid({"name": "n" * length}) is allowed


@pytest.mark.parametrize(
    ("labels", "allowed"),
    [
        ({f"l{n}": "v" for n in range(32)}, True),
        ({f"l{n}": "v" for n in range(33)}, False),
        ({"k" * 100: "v" * 100}, True),
        ({"k" * 101: "v"}, False),
        ({"k": "v" * 101}, False),
        ({"": "v"}, False),
        ({"k": "a\0b"}, False),
    ],
)
def test_labels_are_up_to_32_of_1_to_100_characters(labels: dict[str, str], allowed: bool) -> None:
    assert _valid({"labels": labels}) is allowed


@pytest.mark.parametrize(("width", "allowed"), [(32, True), (40, False)])
def test_sizes_are_multiples_of_16(width: int, allowed: bool) -> None:
    assert _valid({"sampling": {"width": width}}) is allowed
    assert _valid({"sampling": {"height": width}}) is allowed


def _valid(values: dict[str, Any]) -> bool:
    try:
        RunSpec.model_validate(values)
    except ValidationError:
        return False
    return True
