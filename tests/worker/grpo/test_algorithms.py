"""G²RPO's parts on a toy flow in float64: rollout against the naive schedule, and the update's gradient."""

import pytest
import torch
from torch import Tensor

from service.contracts.algorithms import G2RPO
from service.contracts.schedule import continuation_path, shared_cost, sigma_nodes
from worker.grpo.algorithms import GranularGRPO
from worker.grpo.noise import normal
from worker.grpo.objective import clipped_objective
from worker.grpo.transitions import FlowTransition, gaussian_log_prob

PROMPTS, TOKENS, CHANNELS = 3, 4, 5
CONFIG = G2RPO(granularities=(1, 2, 3), sde_steps=(0, 1, 3, 6), group_size=4)
SIGMAS = sigma_nodes(8, 3.0)


class ToyFlow(torch.nn.Module):
    """A smooth velocity field with a term per prompt; counts its evaluations."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(normal((CHANNELS, CHANNELS), 0, "weight").double() / 3)
        self.bias = torch.nn.Parameter(normal((PROMPTS, CHANNELS), 0, "bias").double())
        self.evaluations = 0

    def forward(self, latents: Tensor, sigma: Tensor, prompts: list[int]) -> Tensor:
        self.evaluations += len(latents)
        return torch.tanh(latents @ self.weight + self.bias[prompts][:, None]) * (1 + sigma[:, None, None])


def noises() -> tuple[Tensor, Tensor]:
    initial = normal((PROMPTS, TOKENS, CHANNELS), 1, "initial").double()
    sde = normal((PROMPTS, len(CONFIG.sde_steps), CONFIG.group_size, TOKENS, CHANNELS), 1, "sde").double()
    return initial, sde


def naive_rollout(flow: ToyFlow, initial: Tensor, sde: Tensor) -> Tensor:
    """The paper's procedure written plainly: batch 1, nothing shared. Returns the ends [P, K, G, Λ, …]."""
    ends = torch.empty(PROMPTS, len(CONFIG.sde_steps), CONFIG.group_size, 3, TOKENS, CHANNELS, dtype=torch.float64)
    for p in range(PROMPTS):

        def v(x: Tensor, node: int, prompt: int = p) -> Tensor:
            return flow(x[None], torch.tensor([SIGMAS[node]], dtype=torch.float64), [prompt])[0]

        x = initial[p]
        for i in range(8):
            if i in CONFIG.sde_steps:
                k = CONFIG.sde_steps.index(i)
                transition = FlowTransition.at(SIGMAS, i, CONFIG.eta)
                for g in range(CONFIG.group_size):
                    y = transition.mean(x, v(x, i)) + transition.std * sde[p, k, g]
                    for s, stride in enumerate(CONFIG.granularities):
                        z, path = y, continuation_path(8, i, stride)
                        for node, following in zip(path, (*path[1:], 8), strict=True):
                            z = z + (SIGMAS[following] - SIGMAS[node]) * v(z, node)
                        ends[p, k, g, s] = z
            x = x + (SIGMAS[i + 1] - SIGMAS[i]) * v(x, i)
    return ends


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
@torch.no_grad()
def test_the_shared_batched_rollout_is_the_naive_one(batch_size: int) -> None:
    flow, algorithm = ToyFlow(), GranularGRPO(CONFIG, SIGMAS)
    initial, sde = noises()

    anchors = algorithm.anchors(flow, initial, batch_size=2)
    experience = algorithm.perturb(anchors, sde)
    ends, evaluations = algorithm.denoise(flow, experience.samples, batch_size)

    torch.testing.assert_close(ends, naive_rollout(ToyFlow(), initial, sde), rtol=0, atol=1e-12)
    cost = shared_cost(8, CONFIG.sde_steps, CONFIG.granularities, CONFIG.group_size)
    assert evaluations == PROMPTS * cost.continuations
    assert flow.evaluations == PROMPTS * cost.total


@torch.no_grad()
def test_the_anchor_is_kept_where_the_sde_steps_are() -> None:
    flow, algorithm = ToyFlow(), GranularGRPO(CONFIG, SIGMAS)
    initial, _ = noises()
    anchors = algorithm.anchors(flow, initial, batch_size=2)
    assert set(anchors.states) == set(anchors.velocities) == set(CONFIG.sde_steps)
    assert torch.equal(anchors.states[0], initial)
    for i in CONFIG.sde_steps:
        sigma = torch.full((PROMPTS,), SIGMAS[i], dtype=torch.float64)
        again = flow(anchors.states[i], sigma, list(range(PROMPTS)))
        torch.testing.assert_close(anchors.velocities[i], again, rtol=0, atol=1e-15)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_one_forward_for_a_group_has_the_gradient_of_one_forward_per_sample(batch_size: int) -> None:
    flow, algorithm = ToyFlow(), GranularGRPO(CONFIG, SIGMAS)
    initial, sde = noises()
    with torch.no_grad():
        experience = algorithm.perturb(algorithm.anchors(flow, initial, 2), sde)
        flow.bias += 0.01  # a policy that has moved: ratios differ from 1
    advantages = normal((PROMPTS, len(CONFIG.sde_steps), CONFIG.group_size), 2, "advantages").double()

    parts = list(algorithm.losses(flow, experience, advantages, batch_size))
    shared = torch.autograd.grad(sum(part.loss for part in parts), list(flow.parameters()))

    losses = []
    for p in range(PROMPTS):
        for k, i in enumerate(CONFIG.sde_steps):
            transition = FlowTransition.at(SIGMAS, i, CONFIG.eta)
            for g in range(CONFIG.group_size):
                state = experience.states[p, k][None]
                velocity = flow(state, torch.tensor([SIGMAS[i]], dtype=torch.float64), [p])
                sample = experience.samples[p, k, g][None]
                log_prob = gaussian_log_prob(sample, transition.mean(state, velocity), transition.std)
                ratio = torch.exp(log_prob - experience.old_log_probs[p, k, g])
                losses.append(clipped_objective(ratio, advantages[p, k, g], CONFIG.clip_range))
    single = torch.autograd.grad(torch.stack(losses).mean(), list(flow.parameters()))
    for one, other in zip(shared, single, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_before_the_first_update_every_ratio_is_one() -> None:
    flow, algorithm = ToyFlow(), GranularGRPO(CONFIG, SIGMAS)
    initial, sde = noises()
    with torch.no_grad():
        experience = algorithm.perturb(algorithm.anchors(flow, initial, 2), sde)
    advantages = torch.ones(PROMPTS, len(CONFIG.sde_steps), CONFIG.group_size, dtype=torch.float64)
    for part in algorithm.losses(flow, experience, advantages, batch_size=2):
        assert torch.equal(part.ratios, torch.ones_like(part.ratios))
        assert not part.clipped.any()


def test_clipping_takes_the_worse_of_both() -> None:
    ratio = torch.tensor([0.5, 1.5, 0.5, 1.5])
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    assert clipped_objective(ratio, advantages, 0.1).tolist() == pytest.approx([-0.5, -1.1, 0.9, 1.5])


def test_a_rollout_can_be_abandoned_between_batches() -> None:
    flow, algorithm = ToyFlow(), GranularGRPO(CONFIG, SIGMAS)
    initial, sde = noises()

    def stop() -> None:
        raise KeyboardInterrupt

    with torch.no_grad():
        experience = algorithm.perturb(algorithm.anchors(flow, initial, 2), sde)
        done = flow.evaluations
        with pytest.raises(KeyboardInterrupt):
            algorithm.denoise(flow, experience.samples, 4, stop)
    assert flow.evaluations == done
