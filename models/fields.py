"""Column types that Peewee does not have."""

from __future__ import annotations

from typing import Any

from peewee import Field
from playhouse.postgres_ext import DateTimeTZField

__all__ = ["InstantField", "Xid8Field"]

InstantField = DateTimeTZField  # timestamptz: aware, UTC


class Xid8Field(Field):
    """A transaction id, the first half of a position; read as int."""

    field_type = "XID8"

    def python_value(self, value: Any) -> int | None:
        return None if value is None else int(value)

    def db_value(self, value: Any) -> str | None:
        return None if value is None else str(value)
