"""Small pictures for mails: PNG files, because mail programs show nothing else."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Sequence

WIDTH, HEIGHT = 240, 56  # shown at half that size, so that it is sharp on a phone
STROKE = 3.0
UP, DOWN = (22, 133, 86), (200, 62, 54)


def sparkline(series: Sequence[float]) -> bytes:
    """A series as a line on nothing, green or red by where it ends; PNG. Raises ValueError for fewer than two numbers.

    >>> sparkline([1, 2])[:4]
    b'\\x89PNG'
    """
    if len(series) < 2 or not all(map(math.isfinite, series)):
        raise ValueError("a picture needs two numbers at least")
    low, high = min(series), max(series)
    room = HEIGHT - 2 * STROKE
    heights = [STROKE + room * (0.5 if high == low else (high - value) / (high - low)) for value in series]
    colour = bytes(UP if series[-1] >= series[0] else DOWN)
    columns = [_column(_height(heights, x), _height(heights, x + 1)) for x in range(WIDTH)]
    lines = (b"".join(colour + bytes([column[y]]) for column in columns) for y in range(HEIGHT))
    return png(WIDTH, HEIGHT, lines)


def _height(heights: Sequence[float], x: float) -> float:
    """Where the line is at a pixel's edge."""
    at = x / WIDTH * (len(heights) - 1)
    left = min(int(at), len(heights) - 2)
    return heights[left] + (heights[left + 1] - heights[left]) * (at - left)


def _column(start: float, end: float) -> bytes:
    """How much of each pixel of a column the stroke covers, 0 to 255."""
    slant = math.hypot(1, end - start)  # a steep line is as thick as a flat one
    top, bottom = min(start, end) - STROKE / 2 * min(slant, 2), max(start, end) + STROKE / 2 * min(slant, 2)
    covered = (max(0.0, min(bottom, y + 1) - max(top, y)) for y in range(HEIGHT))
    return bytes(round(255 * share) for share in covered)


def png(width: int, height: int, lines: Iterable[bytes]) -> bytes:
    """An RGBA picture from its lines of pixels (PNG specification, sections 5 and 11)."""
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    body = b"".join(b"\0" + line for line in lines)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(body, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
