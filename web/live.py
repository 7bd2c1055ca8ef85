"""/events: facts and state as they come, by WebSocket or server-sent events, resumable by token.

Ask with `?after=xid-id` (or `Last-Event-ID`) to resume; `{"topic": "gap"}` says that events behind the
token are no longer kept: reload. Facts carry an `id`, which is the next token; state carries none.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from models.events import Position
from web.access import APP, Visitor, needs, same_origin, who
from web.hub import Client, Hub, TooSlow, parse_token

KEEP_ALIVE = 15.0  # seconds: a comment or ping, so that proxies keep the line open
CLOSED_POLICY, CLOSED_TRY_AGAIN, CLOSED_BAD = 1008, 1013, 1007


def client_of(visitor: Visitor) -> Client:
    """What a visitor may hear: an operator everything, the app's user what is public and their own."""
    return Client(visitor.user_id, everything=visitor.role != APP)


def resume_token(connection: HTTPConnection) -> Position | None:
    """Where the client stopped. Raises ValueError for nonsense."""
    text = connection.query_params.get("after") or connection.headers.get("last-event-id")
    return parse_token(text) if text else None


async def stream(hub: Hub, client: Client, after: Position | None) -> AsyncIterator[tuple[str, str]]:
    """(token, JSON) for one client, first a hello that holds the token from which it listens."""
    joined: asyncio.Task[str] = asyncio.create_task(hub.join(client, after))
    try:
        while not joined.done() and not client.facts:
            await asyncio.sleep(0.005)
        if joined.done() and joined.result() == "gap":
            yield "", json.dumps({"topic": "gap"})
            return
        if joined.done() and not client.facts:
            yield joined.result(), json.dumps({"topic": "hello", "id": joined.result()})
        messages = client.messages()
        async for message in messages:
            yield message
    finally:
        joined.cancel()
        hub.leave(client)


async def websocket(socket: WebSocket) -> None:
    """/events by WebSocket: closed with 1008 to who may not, 1013 to who does not read."""
    visitor = await who(socket)
    if visitor is None or not visitor.may(APP) or (visitor.session and not same_origin(socket)):
        await socket.close(CLOSED_POLICY, "log in, or send a token that the app signed")
        return
    try:
        after = resume_token(socket)
    except ValueError as wrong:
        await socket.close(CLOSED_BAD, str(wrong))
        return
    await socket.accept()
    sending = asyncio.create_task(_send(socket, client_of(visitor), after))
    with suppress(WebSocketDisconnect, RuntimeError):
        while True:  # what a client says is not for us; that it went away is
            await socket.receive_bytes() if False else await socket.receive()
            if socket.client_state.name == "DISCONNECTED":
                break
    sending.cancel()
    with suppress(asyncio.CancelledError):
        await sending


async def _send(socket: WebSocket, client: Client, after: Position | None) -> None:
    try:
        async for _, text in stream(socket.app.state.hub, client, after):
            await socket.send_text(text)
    except TooSlow:
        with suppress(RuntimeError):
            await socket.close(CLOSED_TRY_AGAIN, "too slow: resume with your token")
    except (WebSocketDisconnect, RuntimeError, OSError):
        return


@needs(APP)
async def server_sent(request: Request) -> Response:
    """/events by server-sent events; a browser resumes by itself with Last-Event-ID."""
    try:
        after = resume_token(request)
    except ValueError as wrong:
        return JSONResponse({"error": str(wrong)}, 400)
    client = client_of(request.state.visitor)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    body = _lines(request.app.state.hub, client, after)
    return StreamingResponse(body, media_type="text/event-stream", headers=headers)


async def _lines(hub: Hub, client: Client, after: Position | None) -> AsyncIterator[str]:
    messages = stream(hub, client, after)
    upcoming: asyncio.Task[tuple[str, str]] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.ensure_future(anext(messages))
            done, _ = await asyncio.wait({upcoming}, timeout=KEEP_ALIVE)
            if not done:
                yield ": still here\n\n"
                continue
            try:
                token, text = upcoming.result()
            except (StopAsyncIteration, TooSlow):
                return
            upcoming = None
            yield (f"id: {token}\n" if token else "") + f"data: {text}\n\n"
    finally:
        if upcoming:
            upcoming.cancel()
        hub.leave(client)
