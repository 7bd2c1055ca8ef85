"""Two web processes and those who listen to them, for bench.events."""

from __future__ import annotations

import json
import pickle
import random
import socket
import subprocess
import time
from dataclasses import dataclass, field

from bench import scratch

SECRET = "shared with the app, for this run alone"
PROCESSES = 2  # of the web, and of clients
PATIENCE = 20.0  # seconds without any news


@dataclass
class Client:
    """How a client logs in, and which user of the app it is; None: an operator."""

    headers: str
    user: int | None


@dataclass
class Heard:
    """What a client says in the end."""

    tokens: list[bytes]
    times: list[float]
    cuts: int
    gaps: int


@dataclass
class Crowd:
    """Two web processes and those who listen to them."""

    desk: scratch.Desk
    name: str
    command: list[str]
    clients: list[Client]
    ports: list[int] = field(default_factory=lambda: [free_port() for _ in range(PROCESSES)])
    webs: list[subprocess.Popen[bytes]] = field(default_factory=list)
    swarms: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Until every client is connected."""
        self.webs = [self.web(port) for port in self.ports]
        for number in range(PROCESSES):
            mine = [client.headers for client in self.clients[number::PROCESSES]]
            name = f"{self.name}-{number}"
            (self.desk.folder / f"{name}.json").write_text(json.dumps({"ports": self.ports, "clients": mine}))
            self.swarms.append(self.desk.start("python", "-m", "bench.peers.swarm", self.desk.folder, name))
        if not scratch.wait_for(lambda: self.state("connected") == len(self.clients), 60, 0.1):
            raise RuntimeError(f"only {self.state('connected')} clients of {self.name} are connected")

    def web(self, port: int) -> subprocess.Popen[bytes]:
        """One web process, once it listens."""
        settings = {"PORT": str(port), "WEB_HOST": "127.0.0.1", "APP_SECRET": SECRET}
        process = self.desk.start(*self.command, log=f"{self.name}.log", **settings)
        if not scratch.wait_for(lambda: listens(port), 30):
            raise RuntimeError(
                f"no web process listens on {port}: {(self.desk.folder / f'{self.name}.log').read_text()}"
            )
        return process

    def state(self, name: str) -> int:
        """A sum over all clients."""
        files = [self.desk.folder / f"{self.name}-{number}.state" for number in range(PROCESSES)]
        return sum(json.loads(file.read_text())[name] for file in files if file.is_file())

    def settle(self, expected: int) -> None:
        """Until all was heard, or nothing more comes."""
        heard, since = -1, time.monotonic()
        while heard < expected and time.monotonic() - since < PATIENCE:
            if (now := self.state("heard")) != heard:
                heard, since = now, time.monotonic()
            time.sleep(0.1)

    def kill(self, dice: random.Random) -> None:
        """Kill -9 one web process and start another in its place."""
        number = dice.randrange(PROCESSES)
        self.webs[number].kill()
        self.desk.stop(self.webs[number])
        self.webs[number] = self.web(self.ports[number])

    def stop(self) -> list[Heard]:
        """End everything; what each client heard, in the order of `clients`."""
        self.desk.stop(*self.swarms)
        self.desk.stop(*self.webs)
        heard: list[Heard] = [Heard([], [], 0, 0)] * len(self.clients)
        for number in range(PROCESSES):
            found = pickle.loads((self.desk.folder / f"{self.name}-{number}.heard").read_bytes())
            heard[number::PROCESSES] = [Heard(*one) for one in found]
        return heard


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0
