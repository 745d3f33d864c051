"""The updates of one rollout on a toy flow in float64: their number, minibatches and learning rate."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from service.contracts.algorithms import G2RPO, AlgorithmContract, DanceGRPO, FlowGRPO, MixGRPO
from service.contracts.algorithms.mix_grpo import Window
from service.contracts.runs import Training
from tests.worker.engine.grpo.toy import PROMPTS, ToyFlow, make, roll_out
from worker.engine.grpo.loss import RolloutBatch
from worker.engine.grpo.noise import normal
from worker.engine.training.distributed import Distributed
from worker.engine.training.optimizer import NotFinite, PolicyOptimizer, learning_rate

CONFIGS: dict[str, dict[str, Any]] = {
    "g2rpo": {"sde_steps": (0, 1, 3, 6)},
    "dance_grpo": {},
    "mix_grpo": {"window": Window(size=3)},
    "flow_grpo": {},
}
KINDS: dict[str, type[AlgorithmContract]] = {
    "g2rpo": G2RPO,
    "dance_grpo": DanceGRPO,
    "mix_grpo": MixGRPO,
    "flow_grpo": FlowGRPO,
}
every_algorithm = pytest.mark.parametrize("name", KINDS)


def ready(name: str, updates: int = 1, **changes: Any) -> tuple[ToyFlow, PolicyOptimizer, RolloutBatch, Tensor]:
    """A policy with its optimizer, a rollout, and advantages."""
    training = {key: changes.pop(key) for key in list(changes) if key in Training.model_fields}
    config = KINDS[name](group_size=4, updates_per_rollout=updates, **{"clip_range": 0.5, **CONFIGS[name], **changes})
    flow, algorithm = ToyFlow(), make(config)
    alone = Distributed(torch.device("cpu"))
    optimizer = PolicyOptimizer(
        Training(**({"learning_rate": 1e-3} | training)), algorithm, list(flow.parameters()), alone
    )
    batch = roll_out(config, flow).batch
    count = PROMPTS * len(algorithm.group_steps) * algorithm.group_size
    return flow, optimizer, batch, normal((count,), 2, "advantages").double()


def weights(flow: ToyFlow) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in flow.parameters()])


@every_algorithm
@pytest.mark.parametrize("updates", [1, 2, 3, 4, 12])
def test_rollout_has_the_configured_number_of_optimizer_steps(name: str, updates: int) -> None:
    flow, optimizer, batch, advantages = ready(name, updates)
    seen: list[Tensor] = []
    optimizer.adamw.register_step_post_hook(lambda *_: seen.append(weights(flow)))
    evaluated = flow.nfe
    recorded = optimizer.update(0, flow, batch, advantages, rows=1)
    assert len(seen) == updates
    assert len({tuple(each.tolist()) for each in seen}) == updates
    assert flow.nfe - evaluated == len(batch.states)  # each state once, for every number of updates
    assert recorded["ratio/first_deviation"] <= 1e-12
    assert (recorded["ratio/max"] > 1 + 1e-12) is (updates > 1)  # the policy has changed before the later minibatches


@every_algorithm
@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_accumulating_gradients_changes_nothing(name: str, rows: int) -> None:
    ends = []
    for size in (2, rows):
        flow, optimizer, batch, advantages = ready(name, 3, kl_weight=0.1)
        optimizer.update(0, flow, batch, advantages, size, reference=torch.no_grad()(ToyFlow()))
        ends.append(weights(flow))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-12)


@every_algorithm
def test_minibatches_are_shuffled_in_every_step(name: str) -> None:
    ends = []
    for step in (0, 1, 0):
        flow, optimizer, batch, advantages = ready(name, 3)
        optimizer.update(step, flow, batch, advantages, rows=2)
        ends.append(weights(flow))
    assert torch.equal(ends[0], ends[2])
    assert not torch.equal(ends[0], ends[1])


def test_gradients_norm_is_clipped() -> None:
    moved = []
    for most in (1e6, 1e-9):  # for values below AdamW's ε = 1e-8, the size of the gradient matters
        flow, optimizer, batch, advantages = ready("g2rpo", max_grad_norm=most, weight_decay=0.0)
        before = weights(flow)
        recorded = optimizer.update(0, flow, batch, advantages, rows=2)
        assert recorded["grad_norm"] > 1e-4  # the norm before clipping
        moved.append((weights(flow) - before).abs().max().item())
    assert moved[1] < moved[0] / 10


@every_algorithm
def test_divergence_pulls_towards_the_base(name: str) -> None:
    flow, optimizer, batch, advantages = ready(name, kl_weight=1.0, weight_decay=0.0)
    with torch.no_grad():
        flow.bias += 0.05
    distances, divergences = [], []
    for step in range(40):
        distances.append((weights(flow) - weights(ToyFlow())).norm().item())
        recorded = optimizer.update(step, flow, batch, 0 * advantages, 2, reference=torch.no_grad()(ToyFlow()))
        divergences.append(recorded["kl"])
    assert distances[-1] < 0.7 * distances[0]
    assert divergences[-1] < divergences[0] / 4
    assert all(one > other for one, other in pairwise(divergences[:20]))


def test_metrics_of_an_update_describe_its_steps() -> None:
    flow, optimizer, batch, advantages = ready("dance_grpo", 2, clip_range=1e-9, max_grad_norm=1e6)
    norms: list[float] = []

    def measure(*_: object) -> None:
        norms.append(math.sqrt(sum(p.grad.square().sum().item() for p in flow.parameters() if p.grad is not None)))

    optimizer.adamw.register_step_pre_hook(measure)
    recorded = optimizer.update(0, flow, batch, advantages, rows=2)
    assert recorded.keys() == {
        "loss",
        "ratio/mean",
        "ratio/min",
        "ratio/max",
        "ratio/first_deviation",
        "clip_fraction",
        "grad_norm",
        "learning_rate",
        "skipped_updates",
    }
    assert recorded["grad_norm"] == pytest.approx(sum(norms) / 2)
    assert recorded["ratio/min"] < recorded["ratio/mean"] < recorded["ratio/max"]
    assert recorded["clip_fraction"] == 0.5  # only the second of two steps sees a policy that has moved


def test_no_reference_means_no_divergence_metric() -> None:
    flow, optimizer, batch, advantages = ready("g2rpo")
    assert "kl" not in optimizer.update(0, flow, batch, advantages, rows=2)


def test_average_is_updated_after_every_optimizer_step() -> None:
    flow, optimizer, batch, advantages = ready("dance_grpo", 3, ema_decay=0.8)
    average = weights(flow)
    seen: list[Tensor] = []
    optimizer.adamw.register_step_post_hook(lambda *_: seen.append(weights(flow)))
    for step in range(2):
        optimizer.update(step, flow, batch, advantages, rows=2)
    for each in seen:
        average = 0.8 * average + 0.2 * each
    own = weights(flow)
    with optimizer.published_weights():
        torch.testing.assert_close(weights(flow), average, rtol=0, atol=1e-14)
    assert torch.equal(weights(flow), own)
    with pytest.raises(KeyboardInterrupt), optimizer.published_weights():
        raise KeyboardInterrupt
    assert torch.equal(weights(flow), own)


def test_nonfinite_update_is_skipped_and_its_count_resets_after_a_finite_one() -> None:
    flow, optimizer, batch, advantages = ready("g2rpo", 4, ema_decay=0.5, max_nonfinite_updates=3)
    bad = advantages.clone()
    bad[batch.members[batch.sde_steps.index(3)]] = torch.nan  # in one of the four minibatches
    before = weights(flow)
    seen: list[Tensor] = []
    optimizer.adamw.register_step_post_hook(lambda *_: seen.append(weights(flow)))
    for step in range(4):
        recorded = optimizer.update(step, flow, batch, bad, rows=2)
        assert recorded["skipped_updates"] == step + 1
    assert len(seen) == 4 * 3
    assert weights(flow).isfinite().all() and not torch.equal(weights(flow), before)
    with optimizer.published_weights():
        assert weights(flow).isfinite().all()
    with pytest.raises(NotFinite, match="3 consecutive updates, up to step 9"):
        optimizer.update(9, flow, batch, advantages * torch.nan, rows=2)


schedules = st.builds(
    Training,
    max_steps=st.integers(1, 200),
    warmup_steps=st.integers(0, 50),
    learning_rate=st.floats(1e-6, 1e-2),
    lr_schedule=st.sampled_from(["constant", "linear", "cosine"]),
    lr_end_factor=st.floats(0, 1),
)


@given(schedules)
def test_rate_is_the_formula(training: Training) -> None:
    peak, end, warmup, last = training.learning_rate, training.lr_end_factor, training.warmup_steps, training.max_steps
    for step in range(last):
        if step < warmup:
            expected = peak * (step + 1) / warmup
        else:
            done = (step - warmup) / (last - warmup)
            falls = {"constant": 0.0, "linear": done, "cosine": math.sin(math.pi * done / 2) ** 2}
            expected = peak * (1 - (1 - end) * falls[training.lr_schedule])
        assert learning_rate(training, step) == pytest.approx(expected, rel=1e-12)


@given(schedules)
def test_rate_rises_in_the_warm_up_then_never_and_stays_within_its_bounds(training: Training) -> None:
    peak, warmup = training.learning_rate, training.warmup_steps
    assume(warmup < training.max_steps)
    rates = [learning_rate(training, step) for step in range(training.max_steps)]
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rates)
    assert all(one < other for one, other in pairwise(rates[:warmup]))
    assert all(one >= other * (1 - 1e-12) for one, other in pairwise(rates[max(0, warmup - 1) :]))
    end = peak if training.lr_schedule == "constant" else peak * training.lr_end_factor
    assert learning_rate(training, training.max_steps) == pytest.approx(end, rel=1e-12, abs=1e-18)


def test_optimizer_steps_at_the_rate_of_the_step() -> None:
    flow, optimizer, batch, advantages = ready("mix_grpo", 2, max_steps=4, lr_schedule="linear")
    used: list[float] = []
    optimizer.adamw.register_step_pre_hook(lambda adamw, *_: used.append(adamw.param_groups[0]["lr"]))
    for step in range(4):
        recorded = optimizer.update(step, flow, batch, advantages, rows=2)
        assert recorded["learning_rate"] == used[-1] == used[-2]
    assert used[::2] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
