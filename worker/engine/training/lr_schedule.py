"""The learning rate of each step."""

import math

from service.contracts.runs import Training


def learning_rate(training: Training, step: int) -> float:
    """The rate of training step `step` (from 0): a linear warm-up, then constant, a line or half a cosine."""
    warmup = training.warmup_steps
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    end = training.lr_end_share
    done = min(1.0, (step - warmup) / max(1, training.max_steps - warmup))
    match training.lr_schedule:
        case "constant":
            share = 1.0
        case "linear":
            share = 1.0 - (1.0 - end) * done
        case "cosine":
            share = end + (1.0 - end) * (1.0 + math.cos(math.pi * done)) / 2.0
    return training.learning_rate * share
