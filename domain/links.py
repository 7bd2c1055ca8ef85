"""Links that work without a login, because nobody else can have made them."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import NamedTuple


class Unsubscribe(NamedTuple):
    """What a link ends: a kind of notification to a user on a channel."""

    user_id: int
    channel: str
    kind: str


def token(key: str, what: Unsubscribe) -> str:
    """`12.email.alert.<signature>`: 128 bits of HMAC-SHA256."""
    text = f"{what.user_id}.{what.channel}.{what.kind}"
    return f"{text}.{hmac.new(key.encode(), b'unsubscribe ' + text.encode(), sha256).hexdigest()[:32]}"


def read(key: str, text: str) -> Unsubscribe | None:
    """What a token of ours ends; None for any other text."""
    user_id, _, rest = text.partition(".")
    channel, _, rest = rest.partition(".")
    kind = rest.partition(".")[0]
    if not (user_id.isascii() and user_id.isdigit() and len(user_id) < 19):
        return None
    what = Unsubscribe(int(user_id), channel, kind)
    return what if hmac.compare_digest(token(key, what).encode(), text.encode()) else None
