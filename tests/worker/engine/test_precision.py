"""float32 computations use full precision, independent of the process and of the loading order."""

from collections.abc import Iterator

import pytest
import torch

from service.contracts.catalog import load_catalog
from worker.engine.models import load_model
from worker.engine.rewards import load_reward

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def as_torch_begins() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32 = before


def test_loaded_reward_convolves_in_float32() -> None:
    load_reward(load_catalog().reward("clip_score"), CPU)
    assert not torch.backends.cudnn.allow_tf32


def test_loaded_model_convolves_in_float32() -> None:
    load_model(load_catalog().models[0], CPU, torch.float32)
    assert not torch.backends.cudnn.allow_tf32
