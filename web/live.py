"""Facts and state as they come, by WebSocket or server-sent events, resumable by token.

Every message is JSON. The first is `{"topic": "hello"}`, or `{"topic": "gap"}` to who asks to resume (`?after=xid-id`
or `Last-Event-ID`) behind a token whose events are no longer kept: reload. Facts carry an `id`, which
is the next token, and so do hello, gap and `{"topic": "here"}`, which says that the line is open; state
(quotes) carries none. A token that the app signed is good until its `exp`: come back with a fresh one.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from json import dumps

from peewee import PeeweeException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from models.events import Position
from web.access import APP, Visitor, needs, same_origin, who
from web.hub import Gap, Hub, parse_token
from web.listeners import NOW, PATIENCE, Client, Ended, Fact, Message

STILL_WELCOME = 10.0  # seconds between looks whether a session or token still holds
ENDS = {  # why a client is sent away: WebSocket close code, words
    "slow": (1013, "too slow: resume with your token"),
    "away": (1013, "PostgreSQL is away: resume with your token"),
    "restart": (1012, "the server ends: resume with your token"),
    "unwelcome": (1008, "logged out, or the token has expired"),
}

Say = Callable[[Fact | Message], Awaitable[None]]


def client_of(visitor: Visitor, connection: HTTPConnection) -> Client:
    """What a visitor may hear: an operator everything, the app's user what is public and their own.

    Raises ValueError for a resume token that is none.
    """
    token = connection.query_params.get("after") or connection.headers.get("last-event-id")
    return Client(visitor.user_id if visitor.role == APP else None, parse_token(token) if token else NOW)


async def websocket(socket: WebSocket) -> None:
    """/events by WebSocket: closed with 1008 to who may no longer, 1013 to who does not read."""
    try:
        visitor = await who(socket)
        if visitor is None or not visitor.may(APP) or (visitor.session and not same_origin(socket)):
            await socket.close(*ENDS["unwelcome"])  # before it was accepted: 403
            return
        client = client_of(visitor, socket)
    except (ValueError, PeeweeException) as failure:
        await socket.accept()
        await socket.close(*ENDS["away"] if isinstance(failure, PeeweeException) else (1007, str(failure)))
        return
    await socket.accept()

    async def say(message: Fact | Message) -> None:
        await socket.send({"type": "websocket.send", "text": message.text})

    why = await serve(socket, client, say)
    if why in ENDS:
        with suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
            async with asyncio.timeout(PATIENCE):  # for a slow one to read so far
                await socket.close(*ENDS[why])


@needs(APP)
async def server_sent(request: Request) -> Response:
    """/events by server-sent events; a browser resumes by itself with Last-Event-ID."""
    visitor: Visitor = request.state.visitor
    try:
        client = client_of(visitor, request)
    except ValueError as wrong:
        return JSONResponse({"error": str(wrong)}, 400)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    if visitor.role == APP:  # a page of the app, which has its own address, sends a token and no cookie
        headers["access-control-allow-origin"] = "*"
    if request.method == "HEAD":
        return Response(headers=headers, media_type=Stream.media_type)
    return Stream(request, client, headers)


class Stream(Response):
    """Server-sent events until either side ends them."""

    media_type = "text/event-stream"

    def __init__(self, request: Request, client: Client, headers: dict[str, str]) -> None:
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self.request, self.client = request, client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(text: str, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

        async def say(message: Fact | Message) -> None:
            await write((f"id: {message.token}\n" if message.token else "") + f"data: {message.text}\n\n")

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await write("retry: 1000\n\n")
        why = await serve(self.request, self.client, say)
        if why in ENDS:
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(PATIENCE):
                    await write("", more=False)


async def serve(connection: WebSocket | Request, client: Client, say: Say) -> str:
    """All that is for the client, until it is gone or sent away; returns why."""
    hub: Hub = connection.app.state.hub
    client.sending = asyncio.create_task(_send(hub, connection, client, say))
    gone = asyncio.create_task(_gone(connection))
    try:
        await asyncio.wait({client.sending, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        hub.leave(client)
        client.sending.cancel()
        gone.cancel()
        await asyncio.wait({client.sending, gone})
    if client.sending.cancelled():
        return client.ended or "gone"
    return client.sending.result()


async def _gone(connection: WebSocket | Request) -> None:
    """What a client says is not for us; that it went away is."""
    while not (await connection.receive())["type"].endswith(".disconnect"):
        pass


async def _send(hub: Hub, connection: HTTPConnection, client: Client, say: Say) -> str:
    try:
        await _start(hub, client, say)
        loop = asyncio.get_running_loop()
        looked_at = loop.time()
        while True:
            waiting = await client.messages()
            if loop.time() - looked_at > STILL_WELCOME:
                looked_at = loop.time()
                if not await _still_welcome(connection):
                    return "unwelcome"
            for message in waiting or [_place("here", max(client.position, hub.position))]:
                client.busy_since = loop.time()
                await say(message)
    except Ended as end:
        return str(end)
    except PeeweeException:
        return "away"
    except (OSError, WebSocketDisconnect):
        return "gone"


async def _start(hub: Hub, client: Client, say: Say) -> None:
    topic = "hello"
    try:
        async for missed in hub.catch_up(client):
            await say(missed)
    except Gap:
        topic, client.position = "gap", NOW
        async for _ in hub.catch_up(client):
            pass
    await say(_place(topic, client.came_at))


def _place(topic: str, position: Position) -> Message:
    token = f"{position.xid}-{position.id}"
    return Message(token, dumps({"topic": topic, "id": token}))


async def _still_welcome(connection: HTTPConnection) -> bool:
    try:
        visitor = await who(connection)
    except PeeweeException:  # nobody can say; no facts come either
        return True
    return visitor is not None and visitor.may(APP)


def hide_tokens(record: logging.LogRecord) -> bool:
    """Keep the tokens in addresses out of the server's log."""
    if isinstance(record.args, tuple):
        record.args = tuple(re.sub(r"\btoken=[^&\s]+", "token=…", a) if isinstance(a, str) else a for a in record.args)
    return True


for _name in ("uvicorn.error", "uvicorn.access"):
    logging.getLogger(_name).addFilter(hide_tokens)
