"""Device and number format of a computation."""

import torch


def default_device(name: str | None) -> torch.device:
    """The named device; without a name CUDA if it is available, otherwise the CPU."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def resolve_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of a precision `float32`, `bfloat16` or `auto`: bfloat16 on CUDA, float32 on the CPU."""
    fastest = torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"auto": fastest, "float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def disable_tf32() -> None:
    """Compute this process's float32 convolutions in float32; by default, CUDA rounds them to TF32's 10-bit mantissa.

    The setting is global: an image or reward must not depend on which models were loaded before.
    """
    torch.backends.cudnn.allow_tf32 = False
