"""How most projects do it: each web process subscribes to Redis and sends what comes to all its WebSockets.

python -m bench.peers.pubsub PORT
"""

from __future__ import annotations

import asyncio
import sys

from redis.asyncio import Redis
from websockets.asyncio.server import ServerConnection, broadcast, serve

from config import settings

CHANNEL = "bench:events"
connections: set[ServerConnection] = set()


async def listen(connection: ServerConnection) -> None:
    """One client, until it goes."""
    connections.add(connection)
    try:
        await connection.wait_closed()
    finally:
        connections.discard(connection)


async def main(port: int) -> None:
    async with (
        serve(listen, "127.0.0.1", port, compression=None),
        Redis.from_url(settings.redis_url).pubsub() as channel,
    ):
        await channel.subscribe(CHANNEL)
        async for message in channel.listen():
            if message["type"] == "message":
                broadcast(connections, message["data"].decode())


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
