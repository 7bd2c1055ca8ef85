"""What the scheduler and the workers say on stdout."""

from __future__ import annotations

import logging
import sys
import time


def start(level: str = "INFO") -> None:
    """One line per event, instants in UTC; rq's own loggers go the same way."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
    handler.formatter.converter = time.gmtime  # type: ignore[union-attr]
    for name in (None, "rq.worker", "rq.job"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
