"""Device and floating-point precision of computations."""

import torch


def default_device(name: str | None) -> torch.device:
    """Return the named device. If `name` is None, return CUDA if it is available, otherwise the CPU."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def resolve_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype for `float32`, `bfloat16` or `auto`, which means bfloat16 on CUDA and float32 on the CPU."""
    fastest = torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"auto": fastest, "float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def disable_tf32() -> None:
    """Compute this process's float32 convolutions in float32. By default, CUDA rounds to TF32's 10-bit mantissa.

    The setting is global, because an image or reward must not depend on which models were loaded before.
    """
    torch.backends.cudnn.allow_tf32 = False
