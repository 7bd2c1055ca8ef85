"""How the operator's page says things: the verdict with its reasons, ages, and the templates (always escaped)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from config import settings
from domain.spans import span, whole

SECOND = timedelta(seconds=1)
FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Problem:
    """Something that needs a look: what, why in words, and the part of the page that has more."""

    what: str
    why: str
    href: str


@dataclass(frozen=True)
class Verdict:
    """The page in one line, and the reasons."""

    says: str
    level: str  # well, look, stopped
    problems: tuple[Problem, ...]

    @property
    def title(self) -> str:
        """The browser's tab, in which only the beginning may be seen."""
        return "Nightdesk" if self.level == "well" else f"{self.says} · Nightdesk"


def verdict(snapshot: dict[str, Any]) -> Verdict:
    """Whether all is well, and if not, why not: worst first."""
    problems = (*_schedule(snapshot), *_workers(snapshot), *_jobs(snapshot), *_prices(snapshot), *_providers(snapshot),
                *_deposits(snapshot), *_delivery(snapshot), *_letters(snapshot))  # fmt: skip
    if not snapshot["schedule_moves"]:
        undeclared = snapshot["schedule_behind_s"] is None
        return Verdict("No schedule is declared" if undeclared else "The schedule has stopped", "stopped", problems)
    if problems:
        things = "1 thing needs" if len(problems) == 1 else f"{len(problems)} things need"
        return Verdict(f"{things} a look", "look", problems)
    return Verdict("All is well", "well", ())


def _schedule(snapshot: dict[str, Any]) -> list[Problem]:
    behind = snapshot["schedule_behind_s"]
    if snapshot["schedule_moves"]:
        return []
    if behind is None:
        return [Problem("no scheduler has ever run", "start one: python scheduler.py", "#workers")]
    silence = whole(timedelta(seconds=behind))
    alive = "none is alive" if not snapshot["schedulers"] else "one is alive but enqueues nothing: see its log"
    return [Problem("nothing is enqueued", f"no scheduler has moved the schedule for {silence}; {alive}", "#workers")]


def _workers(snapshot: dict[str, Any]) -> list[Problem]:
    workers = snapshot["workers"]
    silent = [w["name"] for w in workers if w["bad"]]
    if len(silent) == len(workers):
        return [Problem("no worker is alive", "runs wait in the queues until one starts", "#workers")]
    stand = [Problem(o["what"], o["remedy"], "#workers") for o in snapshot["obstacles"]]
    return [*stand, *(Problem("a worker is silent", name, "#workers") for name in silent)]


def _jobs(snapshot: dict[str, Any]) -> list[Problem]:
    found = []
    for entry in snapshot["entries"]:
        place, data = f"#job-{entry['entry']}", entry["data"]
        if entry["state"] in ("failed", "refused", "lost"):
            found.append(Problem(f"{entry['entry']} {entry['state']}", entry["error"] or "", place))
        if entry["data_is_old"]:
            old = f"{data['name']} is {whole(data['age'])} old, {whole(data['allowed'])} are allowed"
            found.append(Problem(f"the data of {entry['entry']} is too old", old, place))
    return found


def _prices(snapshot: dict[str, Any]) -> list[Problem]:
    groups: dict[tuple[str, str], list[str]] = {}
    for quote in snapshot["quotes"]:
        if quote["state"] != "fresh":
            why = quote["error"] or quote["reason"] or "not fetched yet"
            groups.setdefault((quote["state"], why), []).append(quote["symbol"])
    return [
        Problem(
            f"{len(symbols)} price{'' if len(symbols) == 1 else 's'} {state}", f"{', '.join(symbols)}: {why}", "#prices"
        )
        for (state, why), symbols in groups.items()
    ]


def _providers(snapshot: dict[str, Any]) -> list[Problem]:
    return [
        Problem(f"{p['name']} is not asked for now", p["error"] or f"its breaker is {p['breaker']}", "#providers")
        for p in snapshot["providers"]
        if p["bad"] and not p["off"]
    ]


def _deposits(snapshot: dict[str, Any]) -> list[Problem]:
    paused = [
        Problem(f"nothing is credited in {pause['asset']}", pause["reason"], "#deposits")
        for pause in snapshot["deposits"]["pauses"]
    ]
    chains = [
        Problem(f"{chain['chain']} is not read", chain["paused"] or chain["error"], "#deposits")
        for chain in snapshot["deposits"]["chains"]
        if chain["paused"] or chain["failing"]
    ]
    return paused + chains


def _delivery(snapshot: dict[str, Any]) -> list[Problem]:
    off = [Problem("no message is delivered", "delivery is switched off", "/notifications")]
    resting = [
        Problem(f"nothing goes by {channel['name']} for now", channel["reason"], "/notifications")
        for channel in snapshot["delivery"]["resting"]
    ]
    return [*(off if snapshot["delivery"]["off"] else []), *resting]


def _letters(snapshot: dict[str, Any]) -> list[Problem]:
    return [
        Problem(_count(letters["letters"], "dead letter"), letters["error"] or "", "#dead")
        for letters in snapshot["dead"]
    ]


def _count(number: int, thing: str) -> str:
    return f"1 {thing}" if number == 1 else f"{number} {thing}s"


def tick(instant: datetime, kind: str, at: datetime) -> str:
    """An instant seen from `at`, in the words with which the script goes on counting: age, ago, due, at."""
    if kind == "at":
        return f"{instant:%Y-%m-%d %H:%M:%S} UTC"
    if kind == "due":
        left = instant - at
        return f"in {whole(left)}" if left >= SECOND else "now" if left > -2 * SECOND else f"{whole(-left)} overdue"
    return whole(at - instant) + (" ago" if kind == "ago" else "")


def amount(value: Decimal | None) -> str:
    """A price with the digits that say something, two decimals at least: `99402.57`, not `99402.57000000`."""
    if value is None:
        return "–"
    before, _, after = format(value, "f").partition(".")
    return f"{before}.{after.rstrip('0').ljust(2, '0')}"


def direction(price: Decimal | None, previous: Decimal | None) -> str:
    """Up or down from the last price that was another one; a move is neither good nor bad."""
    return "" if price is None or previous is None or price == previous else "▲" if price > previous else "▼"


templates = Environment(
    loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
templates.filters.update(
    seconds=lambda seconds: timedelta(seconds=seconds), span=span, whole=whole, amount=amount, iso=datetime.isoformat
)
templates.globals.update(tick=tick, direction=direction, version=settings.code_version)


def render(template: str, /, **values: Any) -> str:
    """A template as text; every value in it is escaped."""
    return templates.get_template(template).render(**values)
