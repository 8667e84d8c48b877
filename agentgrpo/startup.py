"""What a process of ours does before anything else."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from agentgrpo.allocator import keep_freed_memory


def prepare() -> None:
    """Memory settings, where modules are found, and libraries that would talk between our lines."""
    keep_freed_memory()
    # So that env.id=my_module:Maze-v0 finds my_module in the current folder, however the command was started.
    sys.path.insert(0, os.getcwd())
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
