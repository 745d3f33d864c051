"""An exponential moving average of the trained weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """ē ← d·ē + (1−d)·w after each update; begins with the weights themselves."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._parameters, self._decay = parameters, decay
        self._average: list[Tensor] = []
        self.reset()

    def reset(self) -> None:
        """Begin anew with the weights as they are."""
        self._average = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after an update."""
        for average, parameter in zip(self._average, self._parameters, strict=True):
            average.lerp_(parameter, 1.0 - self._decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within: the model has the average. Afterwards: the weights that it had, bit for bit."""
        own = [parameter.detach().clone() for parameter in self._parameters]
        try:
            self._put(self._average)
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, tensors: Sequence[Tensor]) -> None:
        for parameter, tensor in zip(self._parameters, tensors, strict=True):
            parameter.copy_(tensor)
