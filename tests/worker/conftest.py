"""Engine tests run on one thread: their batches are too small to gain from two, and the machine may be busy."""

import torch

torch.set_num_threads(1)
