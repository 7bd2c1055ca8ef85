"""Many WebSocket clients in one process, for bench.events: they come back with their last token when a line is cut.

python -m bench.peers.swarm FOLDER NAME — reads FOLDER/NAME.json, writes FOLDER/NAME.state while it runs, and at SIGTERM
FOLDER/NAME.heard: per client what it heard, and when. The frames are taken apart by hand, so that the clients cost as
little as they can of the machine that they share with the servers.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any


class Listener(asyncio.Protocol):
    """One client: `tokens` of the facts that it heard in their order, and the `times` at which they came."""

    def __init__(self, ports: list[int], headers: str, number: int) -> None:
        self.ports, self.headers, self.port = ports, headers, ports[number % len(ports)]
        self.tokens: list[bytes] = []
        self.times: list[float] = []
        self.token = b""
        self.connected = False
        self.cuts = 0
        self.gaps = 0
        self.buffer = b""

    async def live(self) -> None:
        """Connect, listen, and go elsewhere when the line is cut."""
        loop = asyncio.get_running_loop()
        while True:
            self.cut = loop.create_future()
            self.buffer, self.connected = b"", False
            try:
                await loop.create_connection(lambda: self, "127.0.0.1", self.port)
                await self.cut
            except OSError:
                pass
            self.cuts += 1
            self.port = random.choice(self.ports)
            await asyncio.sleep(random.random() * 0.2)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        after = f"?after={self.token.decode()}" if self.token else ""
        transport.write(
            f"GET /events{after} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'A' * 22}==\r\n"
            f"{self.headers}\r\n".encode()
        )

    def connection_lost(self, failure: Exception | None) -> None:
        self.connected = False
        if not self.cut.done():
            self.cut.set_result(None)

    def data_received(self, data: bytes) -> None:
        now = time.time()
        data = self.buffer + data if self.buffer else data
        at = 0
        if not self.connected:
            head = data.find(b"\r\n\r\n")
            if head < 0 or not data.startswith(b"HTTP/1.1 101"):
                self.buffer = data
                if head >= 0:
                    self.transport.abort()
                return
            self.connected, at = True, head + 4
        while len(data) - at >= 2:
            opcode, length, start = data[at] & 15, data[at + 1], at + 2
            if length == 126:
                length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif length == 127:
                length, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if len(data) < start + length or start > len(data):
                break
            at = start + length
            self.hear(opcode, data[start:at], now)
        self.buffer = data[at:]

    def hear(self, opcode: int, payload: bytes, now: float) -> None:
        if opcode == 9:
            self.transport.write(bytes([0x8A, 0x80 | len(payload), 0, 0, 0, 0]) + payload)
        elif opcode == 8:
            self.transport.close()
        elif payload.startswith(b'{"id": "'):
            self.token = payload[8 : payload.index(b'"', 8)]
            self.tokens.append(self.token)
            self.times.append(now)
        elif payload.startswith((b'{"topic": "hello"', b'{"topic": "here"', b'{"topic": "gap"')):
            self.gaps += payload.startswith(b'{"topic": "gap"')
            self.token = payload.rsplit(b'"', 2)[1]


async def swarm(folder: Path, name: str) -> None:
    """Until SIGTERM."""
    orders = json.loads((folder / f"{name}.json").read_text())
    listeners = [Listener(orders["ports"], headers, number) for number, headers in enumerate(orders["clients"])]
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    lives = []
    for number, listener in enumerate(listeners):
        lives.append(asyncio.create_task(listener.live()))
        if number % 20 == 19:
            await asyncio.sleep(0.02)
    while not ended.is_set():
        state = {
            "connected": sum(listener.connected for listener in listeners),
            "heard": sum(len(listener.tokens) for listener in listeners),
        }
        part = folder / f"{name}.part"
        part.write_text(json.dumps(state))
        part.rename(folder / f"{name}.state")
        try:
            async with asyncio.timeout(0.25):
                await ended.wait()
        except TimeoutError:
            pass
    heard = [(listener.tokens, listener.times, listener.cuts, listener.gaps) for listener in listeners]
    (folder / f"{name}.heard").write_bytes(pickle.dumps(heard))


if __name__ == "__main__":
    asyncio.run(swarm(Path(sys.argv[1]), sys.argv[2]))
