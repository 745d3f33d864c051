"""Rollouts of every algorithm on a toy flow in float64, compared with the naive procedure."""

from typing import Any

import numpy as np
import pytest
import torch

from service.contracts.algorithms import G2RPO, AlgorithmContract, DanceGRPO
from tests.worker.engine.grpo import transcription
from tests.worker.engine.grpo.toy import (
    CONFIGS,
    NODES,
    PROMPTS,
    SEED,
    SHIFT,
    STEPS,
    TRAINING_STEP,
    ToyFlow,
    every_algorithm,
    make,
    noise,
    roll_out,
    sampler,
    transition_of,
)
from worker.engine.grpo.loss import losses

Drawn = dict[tuple[int, int, int], tuple[np.ndarray, np.ndarray, float]]
"""Maps (prompt, SDE step, sample) to (x_i, x', log π(x')) for every SDE step."""


def draw(config: AlgorithmContract, v: transcription.Velocity, x: np.ndarray, i: int, noise: np.ndarray) -> Any:
    """One SDE step from x_i: the sample and its log-probability."""
    kind = transition_of(config)
    mean, std = transcription.STEPS[kind](x, v(x, NODES[i]), NODES, i, config.eta)
    sample = mean + std * noise
    return sample, transcription.LOG_PROBS[kind](sample, mean, std)


def naive_g2rpo(config: G2RPO, flow: ToyFlow) -> tuple[np.ndarray, Drawn]:
    """Ends [P, K, G, Λ, …] and SDE samples, computed as in the paper."""
    noises, ends, drawn = noise(TRAINING_STEP), [], {}
    for p in range(PROMPTS):

        def v(x: np.ndarray, sigma: float, prompt: int = p) -> np.ndarray:
            return flow.plain(x, sigma, prompt)

        x = noises.initial(p)[0].numpy()
        for i in range(STEPS):
            for g in range(config.group_size if i in config.sde_steps else 0):
                y, log_prob = draw(config, v, x, i, noises.sde(p, i, g).double().numpy())
                drawn[p, i, g] = x, y, log_prob
                for stride in config.granularities:
                    levels = [NODES[node] for node in transcription.path(STEPS, i, stride)]
                    ends.append(transcription.denoise(v, y, levels))
            x = x + (NODES[i + 1] - NODES[i]) * v(x, NODES[i])
    shape = (PROMPTS, len(config.sde_steps), config.group_size, len(config.granularities), *x.shape)
    return np.reshape(ends, shape), drawn


def naive_chains(config: Any, flow: ToyFlow) -> tuple[np.ndarray, Drawn]:
    """Ends [P, 1, G, 1, …] and SDE samples, computed chain by chain."""
    noises, ends, drawn = noise(TRAINING_STEP), [], {}
    stochastic = config.stochastic(STEPS, TRAINING_STEP, SEED)
    for p in range(PROMPTS):

        def v(x: np.ndarray, sigma: float, prompt: int = p) -> np.ndarray:
            return flow.plain(x, sigma, prompt)

        for g in range(config.group_size):
            x = (noises.initial(p) if config.same_noise else noises.initial(p, g))[0].numpy()
            for i in range(stochastic.stop):
                if i in stochastic:
                    y, log_prob = draw(config, v, x, i, noises.sde(p, i, g).double().numpy())
                    drawn[p, i, g] = x, y, log_prob
                    x = y
                else:
                    x = x + (NODES[i + 1] - NODES[i]) * v(x, NODES[i])
            if getattr(config, "flash", None) is not None:
                levels = transcription.flash_sigmas(STEPS, SHIFT, stochastic.stop, config.flash.share)
                ends.append(transcription.dpm_solver(v, x, levels))
            else:
                ends.append(transcription.denoise(v, x, NODES[stochastic.stop : STEPS]))
    return np.reshape(ends, (PROMPTS, 1, config.group_size, 1, *x.shape)), drawn


@every_algorithm
@pytest.mark.parametrize(("rows", "fast_rows"), [(1, 1), (2, 7), (5, 64), (1000, 1000)])
def test_batched_rollout_equals_the_plain_one(name: str, rows: int, fast_rows: int) -> None:
    config, flow = CONFIGS[name], ToyFlow()
    algorithm = make(config)
    rollout = roll_out(config, flow, TRAINING_STEP, min(rows, algorithm.exact_rows(PROMPTS, rows)), fast_rows)
    ends, drawn = naive_g2rpo(config, flow) if isinstance(config, G2RPO) else naive_chains(config, flow)

    assert rollout.ends.numpy() == pytest.approx(ends, rel=0, abs=1e-12)
    batch = rollout.batch
    places = torch.tensor(list(range(PROMPTS * len(algorithm.group_steps) * config.group_size)))
    assert rollout.ends.flatten(0, 2).shape[0] == len(places)
    for unit, (i, p) in enumerate(zip(batch.sde_steps, batch.prompts, strict=True)):
        for s, member in enumerate(batch.members[unit].tolist()):
            place, g = divmod(member, config.group_size)
            assert divmod(place, len(algorithm.group_steps))[0] == p
            assert algorithm.group_steps[place % len(algorithm.group_steps)] in (i, -1)
            state, sample, log_prob = drawn[p, i, g]
            assert batch.states[unit].numpy() == pytest.approx(state, rel=0, abs=1e-12)
            assert batch.samples[unit, s].numpy() == pytest.approx(sample, rel=0, abs=1e-12)
            assert batch.old_log_probs[unit, s].item() == pytest.approx(log_prob, rel=0, abs=1e-12)


@every_algorithm
def test_trained_steps_follow_the_contract_and_pieces_are_complete(name: str) -> None:
    config = CONFIGS[name]
    algorithm = make(config)
    batch = roll_out(config, ToyFlow(), TRAINING_STEP).batch
    assert len(batch.states) == PROMPTS * config.trained(STEPS)
    pieces = sorted(set(zip(batch.prompts, batch.pieces, strict=True)))
    assert pieces == [(p, piece) for p in range(PROMPTS) for piece in range(config.pieces())]
    assert algorithm.pieces == config.pieces()
    assert set(batch.sde_steps) <= set(algorithm.transitions)
    if isinstance(config, G2RPO):
        assert sorted(set(batch.sde_steps)) == list(config.sde_steps)
    elif not isinstance(config, DanceGRPO):
        assert set(batch.sde_steps) == set(config.stochastic(STEPS, TRAINING_STEP, SEED))


def test_dance_samples_the_trained_steps_for_every_chain() -> None:
    config = CONFIGS["dance"]
    assert isinstance(config, DanceGRPO)
    chosen: dict[tuple[int, int], list[int]] = {}
    for step in range(2):
        batch = roll_out(config, ToyFlow(), step).batch
        for i, p, g in zip(batch.sde_steps, batch.prompts, batch.pieces, strict=True):
            chosen.setdefault((step, p, g), []).append(i)
    assert all(len(set(steps)) == len(steps) == config.trained_of_a_chain(STEPS) == 4 for steps in chosen.values())
    assert {i for steps in chosen.values() for i in steps} == set(range(STEPS - 1))
    assert len({tuple(sorted(steps)) for steps in chosen.values()}) > 10  # for 24 chains with 35 possible choices


@every_algorithm
def test_before_the_first_update_every_ratio_is_one(name: str) -> None:
    config, flow = CONFIGS[name], ToyFlow()
    algorithm = make(config)
    batch = roll_out(config, flow, TRAINING_STEP).batch
    advantages = torch.ones(PROMPTS * len(algorithm.group_steps) * config.group_size, dtype=torch.float64)
    for part in losses(flow, batch, advantages, algorithm.transitions, algorithm.objective, rows=2):
        torch.testing.assert_close(part.ratios, torch.ones_like(part.ratios), rtol=0, atol=1e-13)
        assert not part.clipped.any()


@every_algorithm
def test_log_probabilities_come_from_the_updates_own_numerics(name: str) -> None:
    config, flow = CONFIGS[name], ToyFlow()
    algorithm = make(config)

    def quick(latents: torch.Tensor, sigma: torch.Tensor, prompts: list[int]) -> torch.Tensor:
        return flow(latents, sigma, prompts) * 1.01

    with torch.no_grad():
        rollout = algorithm.roll_out(TRAINING_STEP, PROMPTS, noise(TRAINING_STEP), sampler(flow, fast_flow=quick))
    assert not torch.equal(rollout.ends, roll_out(config, flow, TRAINING_STEP).ends)
    advantages = torch.ones(PROMPTS * len(algorithm.group_steps) * config.group_size, dtype=torch.float64)
    for part in losses(flow, rollout.batch, advantages, algorithm.transitions, algorithm.objective, rows=2):
        torch.testing.assert_close(part.ratios, torch.ones_like(part.ratios), rtol=0, atol=1e-13)


@every_algorithm
def test_prompts_are_independent_of_the_number_of_processes(name: str) -> None:
    config, flow = CONFIGS[name], ToyFlow()
    whole = roll_out(config, flow, TRAINING_STEP)

    def last_prompt(latents: torch.Tensor, sigma: torch.Tensor, prompts: list[int]) -> torch.Tensor:
        return flow(latents, sigma, [p + 2 for p in prompts])

    with torch.no_grad():
        part = make(config).roll_out(TRAINING_STEP, 1, noise(TRAINING_STEP, first_prompt=2), sampler(last_prompt, 1))
    torch.testing.assert_close(part.ends, whole.ends[2:], rtol=0, atol=1e-12)
    units = [unit for unit, p in enumerate(whole.batch.prompts) if p == 2]
    own = whole.batch.take(units)
    assert part.batch.sde_steps == own.sde_steps and part.batch.pieces == own.pieces
    torch.testing.assert_close(part.batch.samples, own.samples, rtol=0, atol=1e-12)


@every_algorithm
def test_rollout_can_be_abandoned_between_batches(name: str) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    flow = ToyFlow()
    ready = sampler(flow)
    stopped = type(ready)(ready.exact, ready.exact_rows, ready.fast, ready.fast_rows, ready.costs, stop)
    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        make(CONFIGS[name]).roll_out(TRAINING_STEP, PROMPTS, noise(TRAINING_STEP), stopped)
    assert flow.nfe <= 2 * PROMPTS * STEPS  # only the anchors
