"""Processes that die with their parent, even by kill -9 (Linux alone has this)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: after a fork is too late
_PR_SET_PDEATHSIG = 1


def die_with(parent: int, signal_number: int = signal.SIGKILL) -> None:
    """Called in the child: it gets the signal when `parent` dies, and ends at once if that has happened."""
    if _libc:
        _libc.prctl(_PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)
