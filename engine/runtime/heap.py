# SPDX-License-Identifier: GPL-2.0-or-later
"""Keep the heap from growing with the length of a run."""

from __future__ import annotations

import ctypes
import sys

# mallopt(3): numbers of the parameters in glibc's malloc.h.
_MMAP_THRESHOLD, _ARENA_MAX = -3, -8
_LARGE = 2**20
_ARENAS = 2


def hold_heap() -> None:
    """Let glibc give the memory of large arrays back as soon as they are freed.

    Left alone it raises the size from which it does so up to 32 MB as it meets such arrays, and keeps a heap for each
    thread: tiles that come and go in four threads then leave holes that add up. Does nothing elsewhere.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):
            library.mallopt(_MMAP_THRESHOLD, _LARGE)
            library.mallopt(_ARENA_MAX, _ARENAS)
