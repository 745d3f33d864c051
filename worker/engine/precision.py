"""float32 in earnest: by default a GPU's convolutions round it to TF32, which has the digits of float16."""

import torch


def in_earnest() -> None:
    """Have this process compute float32 convolutions in float32.

    The setting is the process's: an image, or its value, must not depend on what was loaded before it.
    """
    torch.backends.cudnn.allow_tf32 = False
