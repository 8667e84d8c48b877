"""Memory settings of the process: keep what was freed, and take large blocks in huge pages."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """On Linux with glibc: large tensors come from the heap, and the heap is not trimmed.

    By default every large temporary of a forward pass is mapped and unmapped, and the page faults cost more than the
    arithmetic on it. Elsewhere this does nothing. Huge pages, which save most page faults, are asked for by PyTorch
    itself, if this runs before its first tensor.
    """
    if sys.platform != "linux":
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
