"""Memory settings of the process: keep what was freed, and take large blocks in huge pages."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE = 32 * 2**20  # the most that glibc takes


def give_back_freed_memory() -> None:
    """Once, after something large that does not come again: what loading a model leaves behind would stay for good."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def keep_freed_memory() -> None:
    """On Linux with glibc: tensors up to 32 MB come from the heap, and the heap is not trimmed.

    By default every temporary of a forward pass is mapped and unmapped, and the page faults cost more than the
    arithmetic on it. Larger ones are still mapped: the heap would put small tensors into the hole that one leaves, and
    the next of the same size would no longer fit there. Elsewhere this does nothing. Huge pages, which save most page
    faults, are asked for by PyTorch itself, if this runs before its first tensor.
    """
    if sys.platform != "linux":
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
