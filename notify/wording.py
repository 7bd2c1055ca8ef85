"""One set of templates for all messages: each lays out any message for one kind of reader, and escapes for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from domain.failures import Rejected
from domain.notifications import Line, Message

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent / "templates"
MENTION = re.compile(r"@(?=\w)")
MARKDOWN = re.compile(r"([\\`*_~|<>#\[\]()@:.+-])")


def text(message: Message, *, footer: bool = True, most: int | None = None) -> str:
    """Plain text, at most `most` characters."""
    return cut(_render("plain.txt", message, footer=footer), most)


def html(message: Message, pictures: Mapping[Line, str]) -> str:
    """A mail's HTML; `pictures` has the Content-ID of each line's picture."""
    return _render("mail.html", message, pictures=pictures)


def telegram(message: Message, most: int) -> str:
    """Telegram's HTML: a few tags, everything else escaped; nobody is mentioned, as Telegram links names by itself."""
    return cut(MENTION.sub("@\u2060", _render("telegram.html", message)), most)


def discord(message: Message, most: int) -> str:
    """Discord's Markdown, in which no text of a message means anything."""
    return cut(_render("discord.md", message), most)


def cut(text: str, most: int | None) -> str:
    """Whole lines as far as they fit: each closes the markup that it opens."""
    if most is None or units(text) <= most:
        return text
    kept, length = [], 2
    for line in text.split("\n"):
        length += units(line) + 1
        if length > most:
            break
        kept.append(line)
    return "\n".join([*kept, "…"])


def units(text: str) -> int:
    """Its length as LINE counts, in units of UTF-16: an emoji is two. The others count no more."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _render(template: str, message: Message, **more: Any) -> str:
    from jinja2 import TemplateError

    try:
        return _templates().get_template(template).render(message=message, **more).strip() + "\n"
    except TemplateError as error:
        raise Rejected(f"{template}: {error}") from error


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["md"] = lambda value: MARKDOWN.sub(r"\\\1", str(value))
    return made
