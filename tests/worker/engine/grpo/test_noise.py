"""Addressed randomness."""

import torch

from tests.worker.engine.grpo.toy import CONFIGS, SEED, STEPS, make, noise
from worker.engine.grpo.noise import StepNoise, normal, permutation


def test_same_address_gives_the_same_noise() -> None:
    assert torch.equal(normal((4, 3), 42, "sde", 1, 2, 3, 4), normal((4, 3), 42, "sde", 1, 2, 3, 4))


def test_every_part_of_an_address_matters() -> None:
    addresses = [
        (42, "sde", 1, 2),
        (43, "sde", 1, 2),
        (42, "initial", 1, 2),
        (42, "sde", 2, 1),
        (42, "sde", 12),
        (42, "sde", "1", 2),
    ]
    draws = [normal((8,), *address) for address in addresses]
    for n, one in enumerate(draws):
        assert all(not torch.equal(one, other) for other in draws[n + 1 :])


def test_noise_does_not_use_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    normal((100,), 1, "x")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_noise_of_many_addresses_is_standard_normal() -> None:
    many = torch.stack([normal((16,), 7, "sde", 0, p, i, g) for p in range(8) for i in range(8) for g in range(12)])
    assert abs(many.mean().item()) < 0.03
    assert abs(many.std().item() - 1) < 0.03


def test_permutation_holds_every_index_once() -> None:
    assert sorted(permutation(100, 3, "prompts", 0)) == list(range(100))
    assert permutation(100, 3, "prompts", 0) != permutation(100, 3, "prompts", 1)


def test_addresses_are_the_same_in_every_version() -> None:
    """Otherwise a run from an earlier version would continue with other noise."""
    shape = noise().shape
    assert torch.equal(noise(3).initial(5)[0], normal(shape, SEED, "initial", 3, 5).double())
    assert torch.equal(noise(3, first_prompt=2).initial(5, 4)[0], normal(shape, SEED, "initial", 3, 7, 4).double())
    assert torch.equal(noise(3, first_prompt=2).sde(5, 6, 4), normal(shape, SEED, "sde", 3, 7, 6, 4))
    assert torch.equal(StepNoise(SEED, 3, noise().packed, shape).sde(5, 6, 4), normal(shape, SEED, "sde", 3, 5, 6, 4))
    chains = make(CONFIGS["dance"])
    order = permutation(STEPS - 1, SEED, "trained", 3, 5, 4)
    assert chains.trained_steps(3, 5, 4, range(STEPS - 1)) == order[:4]
    values = [round(value, 4) for value in normal((2,), 42, "sde", 1).tolist()]
    assert (values, permutation(5, 42, "prompts", 0)) == ([0.6937, 0.0546], [4, 3, 0, 2, 1])
