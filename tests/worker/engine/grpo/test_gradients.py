"""The update's loss and gradient in float64, compared with one forward pass per sample and with finite differences."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from tests.worker.engine.grpo import transcription
from tests.worker.engine.grpo.toy import (
    CONFIGS,
    NODES,
    PROMPTS,
    TRAINING_STEP,
    ToyFlow,
    every_algorithm,
    make,
    roll_out,
    transition_of,
)
from worker.engine.grpo.loss import LossPart, Objective, RolloutBatch, losses
from worker.engine.grpo.noise import normal

MOVED = 0.02
"""Change of the policy since the rollout, chosen so that some ratios are outside the clip range and some within it."""
CLIP = {"cps": 2e-5}
every_objective = pytest.mark.parametrize("kl_weight", [0.0, 0.3])


@cache
def drawn(name: str) -> tuple[RolloutBatch, Tensor]:
    """A rollout of the base model, with advantages for its samples."""
    config = CONFIGS[name]
    batch = roll_out(config, ToyFlow(), TRAINING_STEP).batch
    count = PROMPTS * len(make(config).group_steps) * config.group_size
    return batch, normal((count,), 2, "advantages").double()


def objective(name: str, kl_weight: float = 0.0) -> Objective:
    return Objective(CLIP.get(transition_of(CONFIGS[name]), 2e-3), kl_weight)


def parts(
    name: str, policy: ToyFlow, aim: Objective, rows: int = 2, batch: RolloutBatch | None = None, share: float = 1.0
) -> list[LossPart]:
    """The engine's loss for a rollout."""
    whole, advantages = drawn(name)
    base = torch.no_grad()(ToyFlow()) if aim.kl_weight else None
    chosen = whole if batch is None else batch
    return list(losses(policy, chosen, advantages, make(CONFIGS[name]).transitions, aim, rows, share, base))


def plain_loss(name: str, policy: ToyFlow, aim: Objective) -> Tensor:
    """The mean loss over samples by the papers' formulas, with one forward pass per sample."""
    config, (batch, advantages) = CONFIGS[name], drawn(name)
    kind, base = transition_of(config), ToyFlow().requires_grad_(False)
    terms = []
    for unit, (i, p) in enumerate(zip(batch.sde_steps, batch.prompts, strict=True)):
        state, sigma = batch.states[unit], torch.tensor([NODES[i]], dtype=torch.float64)
        for s, member in enumerate(batch.members[unit].tolist()):
            mean, std = transcription.STEPS[kind](state, policy(state[None], sigma, [p])[0], NODES, i, config.eta)
            log_prob = transcription.LOG_PROBS[kind](batch.samples[unit, s], mean, std)
            old = batch.old_log_probs[unit, s]
            loss = transcription.sample_loss(log_prob, old, advantages[member].item(), aim.clip_range)
            if aim.kl_weight:
                base_mean, _ = transcription.STEPS[kind](state, base(state[None], sigma, [p])[0], NODES, i, config.eta)
                loss = loss + aim.kl_weight * transcription.divergence(mean, base_mean, std)
            terms.append(loss)
    return sum(terms, torch.zeros((), dtype=torch.float64)) / len(terms)


def gradient(policy: ToyFlow, loss: Tensor) -> Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(policy.parameters()))])


def total(found: Sequence[LossPart]) -> Tensor:
    return torch.stack([part.loss for part in found]).sum()


@every_algorithm
@every_objective
def test_loss_and_gradient_are_those_of_one_forward_per_sample(name: str, kl_weight: float) -> None:
    policy, aim = ToyFlow(MOVED), objective(name, kl_weight)
    found = parts(name, policy, aim)
    clipped = torch.cat([part.clipped.flatten() for part in found])
    assert clipped.any() and not clipped.all()  # otherwise clipping would not be tested

    expected = plain_loss(name, policy, aim)
    torch.testing.assert_close(total(found), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient(policy, total(found)), gradient(policy, expected), rtol=0, atol=1e-12)


@every_algorithm
@every_objective
def test_gradient_agrees_with_finite_differences(name: str, kl_weight: float) -> None:
    policy, aim = ToyFlow(MOVED), objective(name, kl_weight)
    found = gradient(policy, total(parts(name, policy, aim, rows=1000)))
    differences = []
    with torch.no_grad():
        for parameter in policy.parameters():
            flat = parameter.view(-1)
            for place in range(len(flat)):
                value, around = flat[place].item(), []
                for moved in (value + 1e-6, value - 1e-6):
                    flat[place] = moved
                    around.append(total(parts(name, policy, aim, rows=1000)).item())
                flat[place] = value
                differences.append((around[0] - around[1]) / 2e-6)
    gap = (torch.tensor(differences, dtype=torch.float64) - found).norm() / found.norm()
    assert gap < 1e-6


@every_algorithm
@pytest.mark.parametrize("rows", [1, 5, 12, 1000])
def test_size_of_a_forward_does_not_change_the_gradient(name: str, rows: int) -> None:
    policy, aim = ToyFlow(MOVED), objective(name, 0.3)
    one, other = (gradient(policy, total(parts(name, policy, aim, size))) for size in (2, rows))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@every_algorithm
def test_gradients_of_processes_sum_to_the_total(name: str) -> None:
    policy, aim, (batch, _) = ToyFlow(MOVED), objective(name, 0.3), drawn(name)
    gradients = []
    for p in range(PROMPTS):
        own = batch.take([unit for unit, prompt in enumerate(batch.prompts) if prompt == p])
        gradients.append(gradient(policy, total(parts(name, policy, aim, batch=own, share=1 / PROMPTS))))
    whole = gradient(policy, total(parts(name, policy, aim)))
    torch.testing.assert_close(torch.stack(gradients).sum(dim=0), whole, rtol=0, atol=1e-12)


@every_algorithm
def test_divergence_is_zero_at_the_base_and_pulls_back_to_it(name: str) -> None:
    flat = replace(objective(name, 1.0), clip_range=1.0)
    batch, advantages = drawn(name)
    transitions = make(CONFIGS[name]).transitions
    for moved in (0.0, MOVED):
        policy = ToyFlow(moved)
        found = list(
            losses(policy, batch, torch.zeros_like(advantages), transitions, flat, 2, 1.0, ToyFlow())
        )  # without advantages, the loss consists of the divergence only
        pull = torch.autograd.grad(total(found), policy.bias)[0]
        if moved:
            assert all((part.divergence > 0).all() for part in found)
            assert (pull > 0).all()  # the gradient points back to the base
        else:
            assert total(found).item() == 0.0
            assert not pull.any()
