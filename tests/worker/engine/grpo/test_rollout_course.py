"""The course of a rollout: parts, batches, cancellation, and early delivery of finished latents."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from service.contracts.schedule import TreeNode
from tests.worker.engine.grpo.toy import (
    CONFIGS,
    NODES,
    PROMPTS,
    STEPS,
    TRAINING_STEP,
    ToyFlow,
    every_algorithm,
    make,
    noise,
    roll_out,
    sampler,
)
from worker.engine.grpo.advantages import integrate_advantages
from worker.engine.grpo.solvers import Branch, denoise_branches

CHAINS = [name for name in CONFIGS if name != "g2rpo"]


class Course:
    """`Costs` with the current part, and a velocity that counts its evaluations by part."""

    def __init__(self) -> None:
        self.flow, self.now = ToyFlow(), "none"
        self.counted: dict[str, int] = defaultdict(int)
        self.seen: dict[str, int] = defaultdict(int)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.now = name
        yield
        self.now = "none"

    def count(self, part: str, nfe: int) -> None:
        self.counted[part] += nfe

    def velocity(self, latents: Tensor, sigma: Tensor, prompts: list[int]) -> Tensor:
        self.seen[self.now] += len(latents)
        return self.flow(latents, sigma, prompts)


@every_algorithm
def test_nfe_is_counted_in_the_parts_of_the_plan(name: str) -> None:
    course = Course()
    ready = replace(sampler(course.velocity, rows=1), costs=course)
    with torch.no_grad():
        make(CONFIGS[name]).roll_out(TRAINING_STEP, PROMPTS, noise(TRAINING_STEP), ready)
    cost = CONFIGS[name].cost(STEPS, TRAINING_STEP, make(CONFIGS[name]).seed)
    planned = {"anchor": cost.anchor, "branch": cost.sde_steps, "continuation": cost.continuations}
    assert {part: made for part, made in course.seen.items() if made} == {
        part: PROMPTS * made for part, made in planned.items() if made
    }
    assert {part: course.counted[part] for part in planned} == {part: course.seen[part] for part in planned}


@pytest.mark.parametrize("name", CHAINS)
def test_chains_can_be_abandoned_before_every_batch_of_every_part(name: str) -> None:
    course, checks = Course(), list[str]()
    ready = replace(sampler(course.velocity, 1, 1), costs=course, check=lambda: checks.append(course.now))
    with torch.no_grad():
        make(CONFIGS[name]).roll_out(TRAINING_STEP, PROMPTS, noise(TRAINING_STEP), ready)
    assert set(checks) == {part for part, made in course.seen.items() if made}
    chains = PROMPTS * CONFIGS[name].group_size
    assert checks.count("branch") == course.seen["branch"]
    assert checks.count("continuation") >= chains


@pytest.mark.parametrize("name", CHAINS)
def test_chains_can_be_abandoned_before_their_first_forward(name: str) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    flow = ToyFlow()
    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        ready = replace(sampler(flow), check=stop)
        make(CONFIGS[name]).roll_out(TRAINING_STEP, PROMPTS, noise(TRAINING_STEP), ready)
    assert flow.nfe == 0


@every_algorithm
@pytest.mark.parametrize("fast_rows", [1, 7, 1000])
def test_ends_are_passed_on_immediately_and_unchanged(name: str, fast_rows: int) -> None:
    given: list[tuple[range, Tensor]] = []
    ready = replace(
        sampler(ToyFlow(), fast_rows=fast_rows), done=lambda prompts, ends: given.append((prompts, ends.clone()))
    )
    with torch.no_grad():
        rollout = make(CONFIGS[name]).roll_out(TRAINING_STEP, PROMPTS, noise(TRAINING_STEP), ready)
    assert [p for prompts, _ in given for p in prompts] == list(range(PROMPTS))
    each = len(make(CONFIGS[name]).group_steps) * CONFIGS[name].group_size
    as_few_as_fill_a_batch = next(n for n in range(1, 1000) if n * each >= fast_rows)
    assert all(len(prompts) == as_few_as_fill_a_batch for prompts, _ in given[:-1])
    assert len(given[0][0]) == min(as_few_as_fill_a_batch, PROMPTS)
    assert torch.equal(torch.cat([ends for _, ends in given]), rollout.ends)
    together = roll_out(CONFIGS[name], ToyFlow(), TRAINING_STEP, fast_rows=fast_rows)
    torch.testing.assert_close(rollout.ends, together.ends, rtol=0, atol=1e-12)


@every_algorithm
def test_advantages_follow_the_contract(name: str) -> None:
    algorithm = make(CONFIGS[name])
    shape = (2, PROMPTS, len(algorithm.group_steps), algorithm.group_size, len(algorithm.granularities))
    rewards = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    expected = integrate_advantages(rewards, [1.0, 0.5], CONFIGS[name].advantage)
    assert torch.equal(algorithm.advantages(rewards, [1.0, 0.5]).values, expected.values)


@pytest.mark.parametrize(
    ("branches", "batch", "batches"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 4, [3]), (0, 4, [])]
)
def test_one_lane_evaluates_in_full_batches(branches: int, batch: int, batches: list[int]) -> None:
    sizes = []

    def velocity(latents: Tensor, sigma: Tensor, prompts: list[int]) -> Tensor:
        sizes.append(len(latents))
        return torch.zeros_like(latents)

    path = TreeNode(STEPS - 1, (), (1,))
    waiting = [Branch(torch.zeros(1, 1), path, 0, (n,)) for n in range(branches)]
    assert denoise_branches(velocity, waiting, NODES, batch, lambda *_: None) == branches
    assert sizes == batches


def test_a_single_branch_is_denoised() -> None:
    branch = Branch(torch.ones(4, 5, dtype=torch.float64), TreeNode(STEPS - 1, (), (1,)), 0, (0,))
    ends: list[Tensor] = []
    assert denoise_branches(ToyFlow(), [branch], NODES, 3, lambda _, __, end: ends.append(end)) == 1
    assert len(ends) == 1 and ends[0].shape == (4, 5)


@pytest.mark.parametrize("name", CHAINS)
def test_chains_have_one_granularity(name: str) -> None:
    assert make(CONFIGS[name]).granularities == (1,)


def test_the_parts_of_a_rollout_are_measured_in_order() -> None:
    parts: list[str] = []

    class Named(Course):
        @contextmanager
        def part(self, name: str) -> Iterator[None]:
            parts.append(name)
            yield

    for name in ("g2rpo", "mix"):
        with torch.no_grad():
            make(CONFIGS[name]).roll_out(0, PROMPTS, noise(0), replace(sampler(ToyFlow()), costs=Named()))
    assert parts == ["anchor", "branch", "continuation"] * 2
