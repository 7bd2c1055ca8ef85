"""A mail server that delivers nothing: what it takes is kept in memory, and as files where a folder is given.

Takes any login. Its faults (api "mail") are reply codes, `slow` and `drop`: 421 and 450 to 452 to MAIL, 535
to AUTH, other 5xx to RCPT; with `symbol` for recipients or senders that contain it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo.faults import Fault, Faults
from demo.inbox import Inbox

if TYPE_CHECKING:
    from aiosmtpd.smtp import SMTP, Envelope, Session

KEPT = 1000  # messages
WORDS = {
    421: "4.3.0 busy, try again later", 450: "4.2.1 mailbox busy", 451: "4.3.0 local error", 452: "4.2.2 mailbox full",
    535: "5.7.8 authentication credentials invalid", 550: "5.1.1 no such user", 552: "5.2.3 message too large",
    554: "5.7.1 refused by policy",
}  # fmt: skip


@dataclass(frozen=True)
class Message:
    """A message as it came, with its envelope."""

    sender: str
    recipients: tuple[str, ...]
    received_at: float
    raw: bytes

    @property
    def parsed(self) -> EmailMessage:
        """The message's headers and parts."""
        parsed = message_from_bytes(self.raw, policy=policy.default)
        assert isinstance(parsed, EmailMessage)  # noqa: S101 - what policy.default makes
        return parsed

    def summary(self) -> dict[str, Any]:
        """As /control/mail shows it."""
        message = self.parsed
        body = message.get_body(("plain", "html"))
        return {
            "to": list(self.recipients),
            "from": self.sender,
            "subject": str(message["Subject"] or ""),
            "message_id": str(message["Message-ID"] or ""),
            "received_at": self.received_at,
            "headers": {name: str(value) for name, value in message.items()},
            "text": body.get_content() if body else "",
        }


class Mail:
    """The server in a thread of its own."""

    def __init__(self, faults: Faults, folder: Path | None = None) -> None:
        self.messages: deque[Message] = deque(maxlen=KEPT)
        self.limit: tuple[int, float] | None = None  # so many messages in so many seconds; more are told to come later
        self.inbox = Inbox()
        self.latency = 0.0  # seconds between taking a message and saying so
        self.faults = faults
        self.folder = folder
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._files: deque[Path] = deque()
        self._numbers = itertools.count(1)
        self._thread = threading.Thread(target=self._run, name="mail", daemon=True)
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        """For SMTP_URL."""
        return f"smtp://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen on a free port."""
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        self._ready.wait(10)

    def stop(self) -> None:
        """Stop at once."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self) -> None:
        from aiosmtpd.smtp import SMTP, AuthResult

        def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
            refused = self._fault("", {"535"}) is not None
            return AuthResult(success=not refused, handled=False)

        def session() -> SMTP:
            return SMTP(self, loop=self._loop, hostname="demo", authenticator=authenticate, auth_require_tls=False)

        logging.getLogger("mail.log").setLevel(logging.CRITICAL)
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(self._loop.create_server(session, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def handle_MAIL(  # noqa: N802 - the name that aiosmtpd calls
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Answer MAIL FROM."""
        slow = self._fault(address, {"slow"})
        if slow:
            await asyncio.sleep(30 if slow.seconds is None else slow.seconds)
        fault = self._fault(address, {"421", "450", "451", "452"})
        if fault:
            return f"{fault.fault} {WORDS[int(fault.fault)]}"
        if self.limit and self.inbox.admit(time.time(), {"all": self.limit}):
            return "450 4.7.1 too many messages, try again later"
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Answer RCPT TO."""
        fault = self._fault(address, {"550", "552", "554"})
        if fault:
            return f"{fault.fault} {WORDS[int(fault.fault)]}"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keep the message; with the fault `drop` nobody hears of it."""
        raw = envelope.original_content or b""
        message = Message(envelope.mail_from or "", tuple(envelope.rcpt_tos), time.time(), raw)
        self.messages.append(message)
        if self.folder:
            self._file(self.folder, message)
        if self.latency:
            await asyncio.sleep(self.latency)
        if self._fault(" ".join(message.recipients), {"drop"}) and server.transport:
            server.transport.abort()  # type: ignore[attr-defined]
        return "250 OK: kept"

    def _fault(self, address: str, kinds: set[str]) -> Fault | None:
        return self.faults.find("mail", address, time.time(), kinds)

    def _file(self, folder: Path, message: Message) -> None:
        path = folder / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(message.received_at))}-{next(self._numbers)}.eml"
        path.write_bytes(message.raw)
        self._files.append(path)
        if len(self._files) > KEPT:
            self._files.popleft().unlink(missing_ok=True)
