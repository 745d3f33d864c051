"""Minibatches of a rollout: equal sizes, whole pieces, and independent of the number of processes."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.engine.grpo.toy import CONFIGS, PROMPTS, TRAINING_STEP, ToyFlow, every_algorithm, make, roll_out
from worker.engine.grpo.loss import RolloutBatch
from worker.engine.grpo.noise import permutation

Piece = tuple[int, int]


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """Numbers of processes, prompts per process, pieces per prompt, states per piece, and possible updates."""
    processes, prompts = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    pieces, states = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    total = processes * prompts * pieces
    updates = draw(st.sampled_from([count for count in range(1, total + 1) if total % count == 0]))
    return processes, prompts, pieces, states, updates


def batch(prompts: int, pieces: int, states: int) -> RolloutBatch:
    """A rollout with `states` consecutive SDE steps in every piece, as in chains."""
    places = [(i, p, piece) for i in range(states) for p in range(prompts) for piece in range(pieces)]
    empty = torch.zeros(len(places), 1, 1)
    return RolloutBatch(
        states=empty,
        samples=empty[:, None],
        old_log_probs=torch.zeros(len(places), 1),
        sde_steps=tuple(i for i, _, _ in places),
        prompts=tuple(p for _, p, _ in places),
        members=torch.tensor([[p * pieces + piece] for _, p, piece in places]),
        pieces=tuple(piece for _, _, piece in places),
    )


def pieces_of(part: RolloutBatch, first_prompt: int = 0) -> Counter[Piece]:
    """Maps (prompt index over all processes, piece) to the number of its states in the batch."""
    return Counter((first_prompt + p, piece) for p, piece in zip(part.prompts, part.pieces, strict=True))


@given(shapes(), st.integers(0, 5))
def test_minibatches_partition_the_batch_for_any_number_of_processes(
    shape: tuple[int, int, int, int, int], step: int
) -> None:
    processes, prompts, pieces, states, updates = shape
    orders = [permutation(pieces, 7, "minibatches", step, p) for p in range(processes * prompts)]
    whole = batch(processes * prompts, pieces, states).minibatches(updates, orders)
    found = [pieces_of(part) for part in whole]

    assert len(found) == updates
    assert {len(part.states) for part in whole} == {processes * prompts * pieces * states // updates}
    assert all(set(part.values()) == {states} for part in found)  # no piece is split
    assert sum(found, Counter()) == pieces_of(batch(processes * prompts, pieces, states))

    together: list[Counter[Piece]] = [Counter() for _ in range(updates)]
    for process in range(processes):
        first = process * prompts
        own = batch(prompts, pieces, states).minibatches(updates, orders[first : first + prompts], first)
        if prompts * pieces % updates == 0:  # all values that a spec allows
            assert {len(part.states) for part in own} == {prompts * pieces * states // updates}
        for number, part in enumerate(own):
            together[number] += pieces_of(part, first)
    assert together == found


def test_minibatches_are_shuffled_in_every_step() -> None:
    deals = set()
    for step in range(6):
        orders = [permutation(12, 7, "minibatches", step, p) for p in range(4)]
        first, *_ = batch(4, 12, 1).minibatches(3, orders)
        deals.add(tuple(sorted(pieces_of(first))))
    assert len(deals) == 6


def test_single_minibatch_is_the_unchanged_batch() -> None:
    whole = batch(3, 4, 2)
    assert whole.minibatches(1, []) == [whole]


@every_algorithm
@pytest.mark.parametrize("updates", [2, 3, 4])
def test_rollouts_states_keep_their_samples(name: str, updates: int) -> None:
    config = CONFIGS[name]
    if PROMPTS * config.pieces() % updates:
        updates = 1
    whole = roll_out(config, ToyFlow(), TRAINING_STEP).batch
    orders = [permutation(make(config).pieces, 7, p) for p in range(PROMPTS)]
    rows = {members: unit for unit, members in enumerate(map(tuple, keys(whole)))}
    for part in whole.minibatches(updates, orders):
        for unit, key in enumerate(map(tuple, keys(part))):
            origin = rows.pop(key)
            assert torch.equal(part.states[unit], whole.states[origin])
            assert torch.equal(part.samples[unit], whole.samples[origin])
            assert torch.equal(part.old_log_probs[unit], whole.old_log_probs[origin])
            assert part.prompts[unit] == whole.prompts[origin]
    assert not rows


def keys(part: RolloutBatch) -> list[list[int]]:
    """The identity of a state: its SDE step and the members sampled from it."""
    return [[i, *members] for i, members in zip(part.sde_steps, part.members.tolist(), strict=True)]
