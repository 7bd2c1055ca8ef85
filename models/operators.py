"""Operators, their sessions and API tokens. Passwords and tokens are kept as hashes alone."""

from __future__ import annotations

import hmac
import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence
from datetime import timedelta
from hashlib import scrypt, sha256
from typing import Any

from peewee import BlobField, TextField

import db
from domain.failures import Rejected
from models.fields import InstantField

SESSION = timedelta(hours=12)
COST = {"n": 2**14, "r": 8, "p": 1, "dklen": 32}  # 16 MB and some 50 ms a try, as RFC 7914 suggests for logins
SHORTEST_PASSWORD = 10
NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")


class Operator(db.BaseModel):
    """Somebody who may look (viewer) or act (operator)."""

    name = TextField(primary_key=True)
    password = TextField()  # scrypt$salt$hash
    role = TextField()
    created_at = InstantField()
    disabled_at = InstantField(null=True)


class Session(db.BaseModel):
    """A browser that is logged in; the cookie holds the token, this row its SHA-256."""

    token_hash = BlobField(primary_key=True)
    operator = TextField()
    created_at = InstantField()
    expires_at = InstantField()


class ApiToken(db.BaseModel):
    """A program that may read: `metrics` for a scraper, `read` for the served app."""

    name = TextField(primary_key=True)
    token_hash = BlobField()
    scope = TextField()
    created_at = InstantField()
    expires_at = InstantField(null=True)
    revoked_at = InstantField(null=True)

    class Meta:
        table_name = "api_token"


def fingerprint(token: str) -> bytes:
    """What is stored of a token: it has 256 bits of its own, so a plain hash is enough."""
    return sha256(token.encode()).digest()


def hashed(password: str) -> str:
    """A password as it is stored. Raises Rejected for one that is too short."""
    if len(password) < SHORTEST_PASSWORD:
        raise Rejected(f"a password has at least {SHORTEST_PASSWORD} characters")
    salt = secrets.token_bytes(16)
    return f"scrypt${b64encode(salt).decode()}${b64encode(scrypt(password.encode(), salt=salt, **COST)).decode()}"


def matches(password: str, stored: str) -> bool:
    """Whether it is that password, in the same time either way."""
    _, salt, expected = stored.split("$")
    found = scrypt(password.encode(), salt=b64decode(salt), **COST)
    return hmac.compare_digest(found, b64decode(expected))


NOBODY = hashed(secrets.token_hex())  # compared with when the name is unknown, so that time does not tell


def save(name: str, password: str, role: str) -> None:
    """Add an operator, or give one a new password and role; a changed one is logged out everywhere. Raises Rejected."""
    check(name)
    with db.transaction():
        db.rows(
            """insert into operator (name, password, role) values (%s, %s, %s)
               on conflict (name) do update
               set password = excluded.password, role = excluded.role, disabled_at = null""",
            name,
            hashed(password),
            role,
        )
        db.rows("delete from session where operator = %s", name)


def check(name: str) -> None:
    """Raises Rejected for what is no name of an operator or a program."""
    if not NAME.fullmatch(name):
        raise Rejected("a name has up to 64 letters, digits and . _ @ -")


def disable(name: str) -> bool:
    """Shut an operator out at once; False: there is no such one."""
    with db.transaction():
        db.rows("delete from session where operator = %s", name)
        return bool(db.rows("update operator set disabled_at = now() where name = %s returning 1", name))


def everybody() -> list[dict[str, Any]]:
    """Operators without their hashes."""
    return db.maps("select name, role, created_at, disabled_at from operator order by name")


def open_session(name: str, password: str) -> str | None:
    """A new session's token, or None. An unknown name costs as much time as a wrong password."""
    found = []
    if NAME.fullmatch(name):
        found = db.rows("select password from operator where name = %s and disabled_at is null", name)
    if not matches(password, found[0][0] if found else NOBODY) or not found:
        return None
    token = secrets.token_urlsafe(32)
    with db.transaction():
        db.rows("delete from session where expires_at < now()")
        opened = db.rows(  # under the operator's lock: a password that was changed meanwhile opens nothing
            """insert into session (token_hash, operator, expires_at)
               select %s, name, now() + %s from operator
               where name = %s and password = %s and disabled_at is null for update returning 1""",
            fingerprint(token),
            SESSION,
            name,
            found[0][0],
        )
    return token if opened else None


def of_sessions(tokens: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Name and role of those that are live, by token."""
    by_hash = {fingerprint(token): token for token in tokens}
    found = db.rows(
        """select s.token_hash, o.name, o.role from session s join operator o on o.name = s.operator
           where s.token_hash = any(%s) and s.expires_at > now() and o.disabled_at is null""",
        list(by_hash),
    )
    return {by_hash[bytes(token_hash)]: (name, role) for token_hash, name, role in found}


def close_session(token: str) -> None:
    """Log out."""
    db.rows("delete from session where token_hash = %s", fingerprint(token))


def new_token(name: str, scope: str, days: int | None) -> str:
    """An API token; it is shown this once. A known name gets a new token and loses the old one. Raises Rejected."""
    check(name)
    token = f"nd_{secrets.token_urlsafe(32)}"
    db.rows(
        """insert into api_token (name, token_hash, scope, expires_at)
           values (%s, %s, %s, now() + make_interval(days => %s))
           on conflict (name) do update set token_hash = excluded.token_hash, scope = excluded.scope,
             created_at = now(), expires_at = excluded.expires_at, revoked_at = null""",
        name,
        fingerprint(token),
        scope,
        days,
    )
    return token


def revoke_token(name: str) -> bool:
    """Close an API token at once; False: there is no such one."""
    return bool(db.rows("update api_token set revoked_at = now() where name = %s returning 1", name))


def token_scope(token: str) -> str | None:
    """What a live API token may."""
    found = db.rows(
        """select scope from api_token where token_hash = %s and revoked_at is null
           and (expires_at is null or expires_at > now())""",
        fingerprint(token),
    )
    return found[0][0] if found else None


def tokens() -> list[dict[str, Any]]:
    """API tokens without their hashes."""
    return db.maps("select name, scope, created_at, expires_at, revoked_at from api_token order by name")
