"""Selection of the attention implementation on GPUs.

cuDNN attention is the fastest on an H100, but its backward pass failed there for batches of 8 (FLUX.1-dev, torch 2.11).
Training must use the same implementation in rollout and update, so it runs without cuDNN attention. Code that only
samples images can use it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.backends import cuda


def differentiable() -> None:
    """Disable cuDNN attention for this process, so that the backward pass works for every batch size."""
    cuda.enable_cudnn_sdp(False)


@contextmanager
def fastest() -> Iterator[None]:
    """Allow every attention implementation within the context, then restore the previous setting."""
    before: bool = cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    cuda.enable_cudnn_sdp(True)
    try:
        yield
    finally:
        cuda.enable_cudnn_sdp(before)
