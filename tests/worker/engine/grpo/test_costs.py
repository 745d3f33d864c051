"""The NFE of a rollout equal the contract's cost on every schedule, and common evaluations are shared."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.contracts.algorithms import G2RPO, AlgorithmContract, DanceGRPO, FlowGRPO, MixGRPO
from service.contracts.algorithms.mix_grpo import Flash, Window
from tests.worker.engine.grpo.toy import PROMPTS, SEED, ToyFlow, make, noise, sampler


@st.composite
def configurations(draw: st.DrawFn) -> tuple[AlgorithmContract, int]:
    """Any algorithm, and a schedule for it."""
    steps, group = draw(st.integers(2, 12)), draw(st.integers(2, 4))
    kind = draw(st.sampled_from([G2RPO, DanceGRPO, MixGRPO, FlowGRPO]))
    fields: dict[str, Any] = {"group_size": group, "updates_per_rollout": 1}
    if kind is G2RPO:
        fields["sde_steps"] = draw(st.lists(st.integers(0, steps - 2), min_size=1, max_size=3, unique=True))
        fields["granularities"] = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True))
        return kind(**fields), steps
    fields["same_noise"] = draw(st.booleans())
    if kind is MixGRPO:
        size, order = draw(st.integers(1, steps - 1)), draw(st.sampled_from(["progressive", "random"]))
        fields["window"] = Window(size=size, order=order, every=draw(st.integers(1, 3)))
        fields["flash"] = draw(st.none() | st.floats(0.05, 1.0).map(lambda share: Flash(share=share)))
    return kind(**fields), steps


@settings(max_examples=80)
@given(configurations(), st.integers(0, 12), st.integers(1, 40))
@torch.no_grad()
def test_nfe_equals_the_contract(configuration: tuple[AlgorithmContract, int], step: int, fast_rows: int) -> None:
    config, steps = configuration
    flow = ToyFlow()
    ready = sampler(flow, rows=1, fast_rows=fast_rows)  # batches of 1 need no padding
    rollout = make(config, steps).roll_out(step, PROMPTS, noise(step), ready)
    cost = config.cost(steps, step, SEED)
    counted = ready.costs.nfe
    assert counted["anchor"] == PROMPTS * cost.anchor
    assert counted["branch"] == PROMPTS * cost.sde_steps
    assert counted["continuation"] == PROMPTS * cost.continuations
    assert flow.nfe == PROMPTS * cost.total
    images = rollout.ends.flatten(0, 3).shape[0] + (0 if rollout.anchors is None else len(rollout.anchors))
    assert images == PROMPTS * cost.images
    assert rollout.ends.isfinite().all()


@pytest.mark.parametrize(
    ("config", "step"), [(DanceGRPO(group_size=4), 0), (MixGRPO(group_size=4, window=Window(size=3, every=1)), 3)]
)
def test_common_prefix_is_a_single_exact_chain(config: AlgorithmContract, step: int) -> None:
    """Each chain of a group, computed separately, reaches the shared state exactly."""
    flow, algorithm = ToyFlow(), make(config)
    with torch.no_grad():
        rollout = algorithm.roll_out(step, PROMPTS, noise(step), sampler(flow, rows=1, fast_rows=1))
        batch = rollout.batch
        first = min(batch.sde_steps)
        begun = [unit for unit, i in enumerate(batch.sde_steps) if i == first]
        for unit in begun:
            p = batch.prompts[unit]
            x = noise(step).initial(p)
            for i in range(first):
                sigma = torch.tensor([algorithm.sigmas[i]], dtype=torch.float64)
                x = x + (algorithm.sigmas[i + 1] - algorithm.sigmas[i]) * flow(x, sigma, [p])
            assert torch.equal(batch.states[unit], x[0])
    assert len({batch.prompts[unit] for unit in begun}) == PROMPTS
