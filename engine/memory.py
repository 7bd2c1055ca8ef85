"""Memory that importing needed and nobody needs any more goes back to the machine."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from pathlib import Path


def settle() -> None:
    """Call once all is imported: collect, set what is left apart from later collections, give the rest back.

    Compiling and loading modules leaves a third of the heap free but not returned; a fork would carry it along.
    """
    gc.collect()
    gc.freeze()  # shared with every child: later collections do not touch, and so copy, these pages
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; musl has none
        if trim:
            trim(0)


def peak_mb() -> float:
    """The most memory that this process ever had resident, in MB: quick to ask."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def resident_mb() -> float:
    """Resident memory of this process in MB."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6
    except OSError:  # not Linux: the peak will do
        return peak_mb()
