"""One thread: the suite's tensors are too small to share out."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("busy", deadline=None, max_examples=50)  # another run may hold the processor
settings.load_profile("busy")
