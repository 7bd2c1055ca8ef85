"""Messages without secrets: by the name of the parameter, by the value of our settings, by the shape of a URL."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus, urlsplit

import config

_NAMES = (
    r"[\w-]*(?:api[_-]?key|access[_-]?key|key|token|secret|passw(?:or)?d|pwd|auth|signature|sig|crumb|appid|credential)"
)
_PATTERNS = (
    # ?apikey=…  &token=…  "api_key": "…"  X-Access-Token: …
    (re.compile(rf"(?i)\b({_NAMES})(=|%3D|['\"]?\s*:\s*['\"]?)(?!\*\*\*)[^\s&#'\",}}]+"), r"\1\2***"),
    (re.compile(r"(?i)\b(Bearer|Basic|Bot|token)\s+[\w.~+/=-]{8,}"), r"\1 ***"),
    (re.compile(r"(://)[^/\s@?#]+@"), r"\1***@"),  # user:password@
    (re.compile(r"(/bot)\d+:[\w-]+"), r"\1***"),  # Telegram
    (re.compile(r"(/webhooks/\d+)/[\w-]+"), r"\1/***"),  # Discord
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without our secret settings, the given `secrets`, and whatever looks like one."""
    for secret in {form for s in (*secrets, *_settings()) if s for form in (s, quote(s, safe=""), quote_plus(s))}:
        text = text.replace(secret, "***")
    text = config.redact(text)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def _settings() -> list[str]:
    """Secret settings; of those that are URLs the path too, where it is long enough to hold a key: /v3/0123456789ab."""
    secrets = [str(getattr(config.settings, f.name)) for f in config.variables() if f.metadata["secret"]]
    paths = [urlsplit(secret).path for secret in secrets if secret.startswith("http")]
    return [*secrets, *(path for path in paths if len(path) > 12)]


def excerpt(body: bytes, length: int = 160) -> str:
    """The beginning of an answer on one line, for messages."""
    text = " ".join(body[: 4 * length].decode("utf-8", "replace").split())
    return "".join(c if c.isprintable() else "?" for c in text[:length])
