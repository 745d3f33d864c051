"""The clipped objective."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.engine.grpo import transcription
from worker.engine.grpo.loss import clipped_objective
from worker.engine.grpo.transitions import probability_ratio

log_probs = st.floats(-2, 2)
clip_ranges = st.floats(1e-6, 0.9)


@given(log_probs, log_probs, st.floats(-5, 5), clip_ranges)
def test_it_is_the_formula(new: float, old: float, advantage: float, clip_range: float) -> None:
    pair = torch.tensor([new, old], dtype=torch.float64)
    ratio = probability_ratio(pair[:1], pair[1:])
    loss = clipped_objective(ratio, torch.tensor([advantage], dtype=torch.float64), clip_range)
    expected = transcription.sample_loss(new, old, advantage, clip_range)
    assert loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert ratio.item() == pytest.approx(math.exp(new - old), rel=1e-12)


@given(st.floats(0.2, 3), st.floats(-5, 5), clip_ranges)
def test_clipping_uses_the_larger_loss(ratio: float, advantage: float, clip_range: float) -> None:
    one = torch.tensor([ratio], dtype=torch.float64)
    loss = clipped_objective(one, torch.tensor([advantage], dtype=torch.float64), clip_range).item()
    assert loss >= -advantage * ratio
    assert loss >= -advantage * min(max(ratio, 1 - clip_range), 1 + clip_range)


@pytest.mark.parametrize(
    ("ratio", "advantage", "learns"),
    [(1.2, 1.0, False), (0.8, 1.0, True), (1.2, -1.0, True), (0.8, -1.0, False), (1.0, 1.0, True), (1.0, -1.0, True)],
)
def test_clipped_sample_has_no_gradient(ratio: float, advantage: float, learns: bool) -> None:
    one = torch.tensor([ratio], dtype=torch.float64, requires_grad=True)
    clipped_objective(one, torch.tensor([advantage]), 0.1).sum().backward()
    assert one.grad is not None
    assert one.grad.item() == (-advantage if learns else 0.0)
