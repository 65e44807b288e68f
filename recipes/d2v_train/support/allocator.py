"""Keeps freed memory in the process, for training on a CPU.

glibc gives large blocks back to the system when a tensor is freed, and the next operation gets pages that the system
must clear first: several times slower than memory that was used before, above all in containers and virtual machines.
A step allocates the same sizes again and again, so that keeping the blocks costs no memory.
"""

from __future__ import annotations

import ctypes
import os
import platform


SWITCH = "D2V_KEEP_FREED_MEMORY"
"""Environment variable: 0 leaves the allocator as it is."""

# Parameters of mallopt(3). Blocks come from the heap instead of from mappings of their own; the heap is not given
# back, and grows by large pieces.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_SETTINGS = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 256 * 2**20))


def keep_freed_memory() -> str | None:
    """Tell the allocator of this process to keep freed memory for the next operations.

    Nothing is done where the C library is not glibc, where another allocator is preloaded, or where the environment
    has D2V_KEEP_FREED_MEMORY=0.

    Returns:
        A sentence for the log, None if nothing was done.
    """
    if os.environ.get(SWITCH, "1") == "0" or "malloc" in os.environ.get("LD_PRELOAD", ""):
        return None
    if platform.libc_ver()[0] != "glibc":
        return None
    mallopt = ctypes.CDLL(None).mallopt
    if not all(mallopt(name, value) for name, value in _SETTINGS):
        return None
    return f"Freed memory is kept for the next step, which is faster on a CPU; {SWITCH}=0 gives it back."
