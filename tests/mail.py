"""A mail server for tests: it keeps what it gets and answers as it is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from tests.ports import held_port


class MailServer:
    """`answers` are replies by command ("RCPT", "DATA", "MAIL"), the first of a list for the first time, and so on."""

    def __init__(self, port: int, password: str | None = None) -> None:
        self.mails: list[EmailMessage] = []
        self.raw: list[bytes] = []
        self.connections = 0
        self.answers: dict[str, list[str]] = {}
        self.hang_up_after_data = 0
        login: dict[str, Any] = {}
        if password is not None:
            login = {"auth_required": True, "auth_require_tls": False, "authenticator": self._authenticator(password)}
        self.controller = Controller(self, hostname="127.0.0.1", port=port, **login)
        self.url = f"smtp://desk:secret@127.0.0.1:{port}" if password is not None else f"smtp://127.0.0.1:{port}"

    def _authenticator(self, password: str):
        def authenticate(server, session, envelope, mechanism, data):
            return AuthResult(success=data.password == password.encode(), handled=False)

        return authenticate

    def _answer(self, command: str) -> str:
        replies = self.answers.get(command, [])
        return replies.pop(0) if replies else "250 OK"

    async def handle_EHLO(self, server, session, envelope, hostname, responses):  # noqa: N802
        self.connections += 1
        session.host_name = hostname
        return responses

    async def handle_MAIL(self, server, session, envelope, address, options):  # noqa: N802
        answer = self._answer("MAIL")
        if answer.startswith("2"):
            envelope.mail_from = address
        return answer

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
        answer = self._answer("RCPT")
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        answer = self._answer("DATA")
        if answer.startswith("2"):
            self.raw.append(envelope.content)
            self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        if self.hang_up_after_data:
            self.hang_up_after_data -= 1
            server.transport.abort()
        return answer


@contextmanager
def mail_server(password: str | None = None) -> Iterator[MailServer]:
    """A server that runs meanwhile."""
    with held_port() as port:
        server = MailServer(port, password)
        server.controller.start()
        try:
            yield server
        finally:
            server.controller.stop()
