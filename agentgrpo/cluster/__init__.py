"""Runs that are larger than a process: learner ranks under torch.distributed, samplers placed by Ray."""
