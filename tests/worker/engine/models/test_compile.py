"""Compiled sampling: velocities differ only in the last digits, and log-probabilities use the uncompiled model."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch._inductor.config
from torch import Tensor

from tests.worker.engine.models import tiny
from worker.engine.grpo.noise import normal
from worker.engine.grpo.solvers import Velocity
from worker.engine.models import load_model
from worker.engine.models.base import FlowModel, ImageSize
from worker.engine.models.compile import compiled

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),  # a compiler without cached results, on a busy machine
]
SIZE = ImageSize(32, 32)
ROWS = 4


@pytest.fixture(scope="module", autouse=True)
def scalar_kernels() -> Iterator[None]:
    """Compile kernels without vector instructions, which is much faster; these tests do not depend on the kernels."""
    with torch._inductor.config.patch({"cpp.simdlen": 1}):
        yield


@pytest.fixture(scope="module", params=[tiny.ONE_BLOCK, pytest.param("flux-dev", marks=pytest.mark.slow)])
def model(compiler: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FlowModel:
    entry = tiny.make(request.param, tmp_path_factory.mktemp("pipeline") / "model")
    loaded = load_model(entry, torch.device("cpu"), torch.float32)
    for index, parameter in enumerate(loaded.train_lora(2, 2.0, seed=0)):
        parameter.data += 0.1 * normal(tuple(parameter.shape), 0, "lora", index)
    return loaded


def asked(model: FlowModel, rows: int) -> tuple[Velocity, tuple[Tensor, Tensor, list[int]]]:
    """The model's velocity and its arguments."""
    velocity = model.velocity(model.encode(tiny.PROMPTS[:2]), SIZE, 3.5)
    latents = normal((rows, *model.packed_shape(SIZE)), 1, "latents")
    return velocity, (latents, torch.linspace(0.2, 0.9, rows), [row % 2 for row in range(rows)])


@contextmanager
def fast(model: FlowModel, velocity: Velocity) -> Iterator[Velocity]:
    with torch.no_grad(), model.sampling_weights(), compiled(model.transformer, velocity, ROWS) as fastest:
        yield fastest


def test_it_computes_what_the_network_does(model: FlowModel) -> None:
    velocity, question = asked(model, ROWS)
    with torch.no_grad(), model.sampling_weights():
        plain = velocity(*question)
    with fast(model, velocity) as fastest:
        found = fastest(*question)
    assert not torch.equal(found, plain)  # compiled code has a different order of operations
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)


def test_policy_velocity_is_never_compiled(model: FlowModel) -> None:
    velocity, question = asked(model, ROWS)
    with torch.no_grad():
        before, names = velocity(*question), list(model.transformer.state_dict())
    with fast(model, velocity) as fastest:
        fastest(*question)
    with torch.no_grad():
        assert torch.equal(velocity(*question), before)
    assert list(model.transformer.state_dict()) == names


def test_nothing_is_compiled_again_for_a_batch_that_is_not_full_or_another_policy(model: FlowModel) -> None:
    velocity, question = asked(model, ROWS)
    with fast(model, velocity) as fastest:
        full = fastest(*question)
    with torch.compiler.set_stance("fail_on_recompile"):
        with fast(model, velocity) as fastest:
            latents, sigma, prompts = question
            few = fastest(latents[:3], sigma[:3], prompts[:3])
        torch.testing.assert_close(few, full[:3])
        for parameter in model.transformer.parameters():
            if parameter.requires_grad:
                parameter.data *= 1.5
        with fast(model, velocity) as fastest:
            assert not torch.allclose(fastest(*question), full)
