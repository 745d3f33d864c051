"""Engine tests: deterministic examples without deadlines (the machine may be busy), and two threads."""

import torch
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("repeatable")
torch.set_num_threads(2)
