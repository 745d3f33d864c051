"""The attention implementation on GPUs.

cuDNN's is the fastest on an H100, but its backward pass failed there for batches of 8 (FLUX.1-dev, torch 2.11). What is
trained must be computed alike in rollout and update, so it does without; what is only sampled may have it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.backends import cuda


def differentiable() -> None:
    """From now on this process computes with an attention whose gradients can be had for every batch."""
    cuda.enable_cudnn_sdp(False)


@contextmanager
def fastest() -> Iterator[None]:
    """Within: any attention may be taken."""
    before: bool = cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    cuda.enable_cudnn_sdp(True)
    try:
        yield
    finally:
        cuda.enable_cudnn_sdp(before)
