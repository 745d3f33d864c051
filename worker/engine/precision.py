"""Device and number format of a computation."""

import torch

from service.contracts.catalog import ModelEntry


def default_device(name: str | None) -> torch.device:
    """The named device; without a name CUDA if it is available, otherwise the CPU."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def default_dtype(device: torch.device, entry: ModelEntry) -> torch.dtype:
    """The number format that the model's catalog entry selects; `auto` is bfloat16 on CUDA and float32 on the CPU."""
    fastest = torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"auto": fastest, "float32": torch.float32, "bfloat16": torch.bfloat16}[entry.dtype]


def disable_tf32() -> None:
    """Compute this process's float32 convolutions in float32; by default, CUDA rounds them to TF32's 10-bit mantissa.

    The setting is global: an image or reward must not depend on which models were loaded before.
    """
    torch.backends.cudnn.allow_tf32 = False
