"""Notifications by mail, over SMTP. One message for each recipient, one connection for all of a run."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import config
from domain.deliveries import Limit
from domain.failures import Rejected, Unavailable
from domain.notifications import Message
from domain.pictures import sparkline
from notify import wording
from notify.channels import Gone, Plain

if TYPE_CHECKING:
    from email.message import EmailMessage
    from smtplib import SMTP

TIMEOUT = 10  # seconds for each answer of the server
NO_MAILBOX = (b"5.1.1", b"5.1.2", b"5.1.6", b"5.1.10")  # RFC 3463: user, host or domain unknown; moved; null MX
TOO_LARGE = 552  # RFC 1870: the size of a mail is told, and refused, with its sender
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class Email(Plain):
    """The mail server of SMTP_URL. Connects at the first message, and again after a connection was lost."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = Limit(config.settings.mails_per_minute, 60)
        self._server: SMTP | None = None

    def send(self, target: str, message: Message, secret: str = "") -> str:
        """Hand a message to the mail server; returns its Message-ID.

        Raises Unavailable (4xx, a lost connection: whether the message went out is unknown then, and it goes with
        the same Message-ID next time), Rejected (5xx) or Gone (5.1.1 and the like: no such mailbox);
        `broken` is set when it is not this message's fault.
        """
        import smtplib

        mail = compose(target, message)
        server = self._server = self._server or self._connect()
        try:
            server.send_message(mail, to_addrs=[target])
        except smtplib.SMTPRecipientsRefused as refused:
            code, words = refused.recipients[target]
            failure = self._failure(code, words)
            raise (Gone(str(failure)) if words.startswith(NO_MAILBOX) else failure) from refused
        except smtplib.SMTPSenderRefused as refused:
            failure = self._failure(refused.smtp_code, refused.smtp_error)
            self.broken = None if refused.smtp_code == TOO_LARGE else failure
            raise failure from refused
        except smtplib.SMTPResponseException as refused:
            raise self._failure(refused.smtp_code, refused.smtp_error) from refused
        except smtplib.SMTPNotSupportedError as unable:
            raise Rejected(f"smtp: {unable}") from unable
        except OSError as lost:  # smtplib's other exceptions are OSErrors too
            self._drop()
            raise Unavailable(f"smtp: connection lost: {_words(lost)}") from lost
        return str(mail["Message-ID"])

    def _connect(self) -> SMTP:
        """Connect, encrypt where the server can, log in. Raises Unavailable or Rejected and sets `broken`."""
        import smtplib
        import ssl

        try:
            return _connection()
        except smtplib.SMTPResponseException as refused:  # 535 wrong password, 454 not now, 421 or 554 as a greeting
            what = "login: " if isinstance(refused, smtplib.SMTPAuthenticationError) else ""
            self.broken = self._failure(refused.smtp_code, refused.smtp_error, what)
        except (smtplib.SMTPNotSupportedError, ssl.SSLCertVerificationError) as unable:
            self.broken = Rejected(f"smtp: {_words(unable)}")
        except OSError as lost:
            self.broken = Unavailable(f"smtp: no connection: {_words(lost)}")
        except Rejected as unset:
            self.broken = unset
        raise self.broken

    def _failure(self, code: int, answer: bytes | str, what: str = "") -> Exception:
        if code == 421:  # the server hangs up
            self._drop()
        text = answer.decode(errors="replace") if isinstance(answer, bytes) else answer
        words = config.redact(f"smtp: {what}{code} {' '.join(text.split())}"[:300])
        return Unavailable(words) if 400 <= code < 500 else Rejected(words)

    def _drop(self) -> None:
        if self._server:
            self._server.close()
        self._server = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # every message has its outcome: a server that is gone by now costs nothing
            if self._server:
                self._server.quit()
        self._drop()


def _connection() -> SMTP:
    import smtplib
    import ssl

    url = urlsplit(config.settings.smtp_url)
    if not url.hostname:
        raise Rejected("SMTP_URL is not set")
    context = ssl.create_default_context()
    if url.scheme == "smtps":
        server: SMTP = smtplib.SMTP_SSL(url.hostname, url.port or 465, timeout=TIMEOUT, context=context)
    else:
        server = smtplib.SMTP(url.hostname, url.port or (587 if url.username else 25), timeout=TIMEOUT)
    try:
        server.ehlo_or_helo_if_needed()
        encrypted = url.scheme == "smtps"
        if not encrypted and server.has_extn("starttls"):
            server.starttls(context=context)
            encrypted = True
        if url.username:
            if not encrypted and url.hostname not in LOOPBACK:
                raise Rejected(f"smtp: {url.hostname} offers no encryption: the password is not sent in the clear")
            server.login(unquote(url.username), unquote(url.password or ""))
    except BaseException:
        server.close()
        raise
    return server


def compose(target: str, message: Message) -> EmailMessage:
    """The mail, as text and as HTML. Its Message-ID is made from the message's key: a repeat has the same one."""
    from email.message import EmailMessage
    from email.utils import format_datetime, parseaddr

    if not re.fullmatch(config.ADDRESS, target):
        raise Rejected(f"smtp: {target!r:.100} is no mail address")
    mail = EmailMessage(policy=_policy())
    place = parseaddr(config.settings.mail_from)[1].rpartition("@")[2]
    mail["From"] = config.settings.mail_from
    mail["To"] = target
    if [f"{to.username}@{to.domain}" for to in mail["To"].addresses] != [target]:  # a comment, an encoded word …
        raise Rejected(f"smtp: {target!r:.100} is no mail address")
    mail["Subject"] = message.title
    mail["Date"] = format_datetime(message.created_at)
    mail["Message-ID"] = f"<{message.key}@{place}>"
    mail["Auto-Submitted"] = "auto-generated"
    if message.unsubscribe:  # RFC 8058: one POST to this address, without a login, and it is done
        mail["List-Unsubscribe"] = f"<{message.unsubscribe}>"
        mail["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    lines = dict.fromkeys(line for line in message.all_lines() if len(line.series) > 1)
    pictures = {line: f"{number}.{message.key}@{place}" for number, line in enumerate(lines, 1)}
    mail.set_content(wording.text(message))
    mail.add_alternative(wording.html(message, pictures), subtype="html")
    for line, content_id in pictures.items():
        marked_up: Any = mail.get_body(("html",))
        marked_up.add_related(sparkline(line.series), "image", "png", cid=f"<{content_id}>", disposition="inline")
    return mail


@cache
def _policy() -> Any:
    """How a mail is written; a link in a header stays one word, however long it is."""
    from email.headerregistry import HeaderRegistry, UnstructuredHeader
    from email.policy import SMTP

    class Link(UnstructuredHeader):
        def fold(self: Any, *, policy: Any) -> str:  # the one inherited makes of 76 characters what is no link
            return f"{self.name}: {self}{policy.linesep}"

    headers: Any = HeaderRegistry()
    headers.map_to_type("list-unsubscribe", Link)
    headers.map_to_type("content-id", Link)
    return SMTP.clone(header_factory=headers)


def _words(error: Exception) -> str:
    return config.redact(" ".join(str(error).split())[:200] or type(error).__name__)
