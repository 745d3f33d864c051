"""Complete runs of each algorithm on the bundled model: costs, and exact resumption."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service.contracts.catalog import load_catalog
from service.contracts.plan import make_plan
from service.contracts.presets import merge
from tests.worker.engine.training.miniature import SMALL, events, metrics, newest, small, spec, tensors

pytestmark = pytest.mark.long
WINDOW = {"size": 2, "every": 1}
REWARDS_FIRST = {"aggregation": "reward", "scale": "mean"}
RUNS: dict[str, dict[str, Any]] = {
    "g2rpo": {"algorithm": {"group_size": 2, "sde_steps": [0, 2], "updates_per_rollout": 2}},
    "dance": {"algorithm": {"name": "dance_grpo", "group_size": 3}},
    "mix": {"algorithm": {"name": "mix_grpo", "group_size": 2, "window": WINDOW, "updates_per_rollout": 2}},
    "mix-flash": {
        "algorithm": {
            "name": "mix_grpo",
            "group_size": 2,
            "window": WINDOW,
            "flash": {},
            "advantage": {"scale": "mean"},
        },
        "training": {"ema_decay": 0.7},
    },
    "flow": {
        "algorithm": {"name": "flow_grpo", "group_size": 3, "kl_weight": 0.1, "advantage": {"std": "batch"}},
        "training": {"ema_decay": 0.7, "lr_schedule": "cosine"},
    },
    "flow-cps": {
        "algorithm": {
            "name": "flow_grpo",
            "group_size": 2,
            "transition": "cps",
            "advantage": {"aggregation": "reward"},
        },
        "training": {"lr_schedule": "linear", "warmup_steps": 1},
    },
}
SAVING: dict[str, Any] = {
    "training": {"max_steps": 2},
    "heldout": {"every": 1, "pairs": 2, "final_pairs": 3, "samples": 1},
    "checkpoints": {"every": 1},
}


@dataclass(frozen=True)
class Run:
    """A run that was never interrupted."""

    changes: dict[str, Any]
    directory: Path


@pytest.fixture(scope="module", params=RUNS)
def straight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp(request.param)
    changes = merge(SAVING, RUNS[request.param])
    small(directory, **changes).run()
    return Run(changes, directory)


def test_nfe_and_images_equal_the_plan(straight: Run) -> None:
    reported = spec(**merge(SMALL, straight.changes))
    plan = make_plan(reported, load_catalog())
    spent: dict[str, float] = defaultdict(float)
    for _, name, value in metrics(straight.directory, "^nfe/(?!total)"):
        spent[name.removeprefix("nfe/")] += value
    assert sum(spent[part] for part in ("anchor", "branch", "continuation", "heldout")) == plan.total_nfe
    assert spent["heldout"] == plan.heldout_nfe == (3 + 2 + 3) * 5
    assert spent["update"] == 2 * plan.per_step_updates
    assert spent["reference"] == (spent["update"] if reported.algorithm.kl_weight else 0)
    totals = [value for _, _, value in metrics(straight.directory, "^nfe/total$")]
    assert totals[-1] == sum(spent.values())
    images = [value for _, _, value in metrics(straight.directory, "^images/total$")]
    assert images[-1] == 2 * 2 * plan.per_prompt.images + (3 + 2 + 3)


def test_every_ratio_is_one_before_the_first_update_of_a_rollout(straight: Run) -> None:
    deviations = [value for _, _, value in metrics(straight.directory, "^ratio/first_deviation$")]
    assert len(deviations) == 2
    assert max(deviations) <= 1e-5


def test_run_resumed_from_its_middle_ends_bit_identical(straight: Run, tmp_path: Path) -> None:
    resumed = small(tmp_path, **straight.changes)
    resumed.checkpoints.resume(straight.directory / "checkpoints/step-000001")
    resumed.run()

    one, other = (root / "checkpoints/step-000002" for root in (straight.directory, tmp_path))
    assert tensors(one) == tensors(other)
    assert tensors(one) != tensors(straight.directory / "checkpoints/step-000001")
    recorded, known = newest(tmp_path), newest(straight.directory)
    assert recorded == {key: value for key, value in known.items() if key[0] > 1 or key in recorded}
    assert groups(tmp_path) == groups(straight.directory)[1:]
    (end,), (expected,) = (events(root, "finished") for root in (tmp_path, straight.directory))
    assert end["heldout"] == expected["heldout"]


def groups(directory: Path) -> list[list[dict[str, Any]]]:
    return [event["groups"] for event in events(directory, "reward_groups")]


def test_groups_and_images_have_global_indices(straight: Run) -> None:
    algorithm = spec(**merge(SMALL, straight.changes)).algorithm
    places = getattr(algorithm, "sde_steps", (-1,))
    strides = getattr(algorithm, "granularities", (1,))
    for found in groups(straight.directory):
        assert len(found) == 2 * 2 * len(places) * len(strides)  # rewards, prompts
        assert {group["sde_step"] for group in found} == set(places)
        assert all(len(group["values"]) == algorithm.group_size for group in found)
    kept = [event for event in events(straight.directory, "sample") if event["kind"] != "heldout"]
    assert kept and {event["sde_step"] for event in kept} <= set(places)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["g2rpo", "dance", "mix"])
def test_batches_that_leave_a_remainder_keep_every_ratio_at_one(name: str, precision: str, tmp_path: Path) -> None:
    """Five prompts or fifteen chains in batches of four, so that the last batches are padded."""
    algorithm = RUNS[name]["algorithm"] | {"updates_per_rollout": 1, "group_size": 3}
    training = {"max_steps": 2, "prompts_per_step": 5, "update_batch_size": 4, "precision": precision}
    small(tmp_path, algorithm=algorithm, training=training).run()
    extremes = [value for _, _, value in metrics(tmp_path, r"^ratio/(min|max)$")]
    assert len(extremes) == 4
    assert all(abs(value - 1) <= 1e-5 for value in extremes)


def test_divergence_keeps_the_policy_near_its_base(tmp_path: Path) -> None:
    ends = {}
    for weight in (1e-6, 1000.0):  # the first update has no effect, but the metric exists
        algorithm = {"group_size": 2, "sde_steps": [0, 2], "clip_range": 1.0, "kl_weight": weight}
        training = {"max_steps": 6, "learning_rate": 3e-3}
        small(tmp_path / str(weight), algorithm=algorithm, training=training).run()
        recorded = [value for _, _, value in metrics(tmp_path / str(weight), "^kl$")]
        assert recorded[0] == 0.0  # a new LoRA does not change the base model
        assert all(value > 0 for value in recorded[1:])
        ends[weight] = recorded[-1]
    assert ends[1000.0] < ends[1e-6] / 2


def test_updates_of_a_rollout_are_steps_of_the_optimizer(tmp_path: Path) -> None:
    algorithm = {"name": "dance_grpo", "group_size": 3, "updates_per_rollout": 3}
    subject = small(tmp_path, algorithm=algorithm, training={"max_steps": 2})
    steps: list[int] = []
    subject.optimizer.adamw.register_step_post_hook(lambda *_: steps.append(subject.step))
    subject.run()
    assert steps == [0, 0, 0, 1, 1, 1]
