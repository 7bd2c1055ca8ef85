"""What stays of a demo world when its process ends: a file beside the data that came from it.

The first line names the world; each further one is what a chain has lived through besides growing. The file's time of
change is the last instant at which a chain has grown.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

SEED = 1  # of the world that nobody has chosen


class Journal:
    """The journal of a world, in a file that appears with the first line. Raises ValueError for one of another."""

    def __init__(self, path: Path, world: str) -> None:
        self.path, self.world = path, world
        self.lines: list[dict[str, Any]] = []
        self.touched = 0.0
        if written := path.read_text().splitlines() if path.exists() else []:
            first, *self.lines = map(json.loads, written)
            self.touched = path.stat().st_mtime
            if first["world"] != world:
                raise ValueError(f"{path.parent} has the data of {first['world']}, not of {world}")

    def add(self, *lines: dict[str, Any]) -> None:
        """Write lines, all of them or none."""
        with self.path.open("a") as file:
            news = lines if file.tell() else ({"world": self.world}, *lines)
            file.write("".join(f"{json.dumps(line)}\n" for line in news))
        self.touch()

    def touch(self) -> None:
        """Note that the world goes on; by our clock, as a kernel's stamps are some milliseconds late."""
        now = time.time()
        os.utime(self.path, (now, now))


def world_of(replay: Path | str | None, seed: int | None) -> str:
    """The name of a world, by what it follows from."""
    return f"the record in {replay}" if replay else f"the simulated world of seed {SEED if seed is None else seed}"
