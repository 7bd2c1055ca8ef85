"""Is all well, and if not, why not: for the page and for `nightdesk status`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from domain.spans import whole


@dataclass(frozen=True)
class Problem:
    """Something that needs a look: what, why in words, and the part of the page that has more."""

    what: str
    why: str
    href: str


@dataclass(frozen=True)
class Verdict:
    """All there is to say in one line, and the reasons."""

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
    nobody = Problem("no worker is alive", "runs wait in the queues until one starts", "#workers")
    obstacles = [Problem(o["what"], o["remedy"], "#workers") for o in snapshot["obstacles"]]
    if len(silent) == len(workers):
        return [nobody, *obstacles]
    return [*obstacles, *(Problem("a worker is silent", name, "#workers") for name in silent)]


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
        if quote["state"] != "fresh" and not quote["awaited"]:
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
