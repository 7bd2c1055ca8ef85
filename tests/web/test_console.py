"""The operator's page over HTTP: what it says, what its buttons do, and what they leave in the audit."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

import db
from cli.migrate import reconcile
from engine import entries
from tests.web.conftest import Site, Visitor
from web import page
from web.verdict import verdict

# every price, of some source and of some age, where a minute is allowed
QUOTE = """
update quote set price = 1.5, source = %s, happened_at = now() - x.age, received_at = now() - x.age,
  said_at = now() - x.age,
  stale_at = now() - x.age + interval '1 min', state = case when x.age < interval '1 min' then 'fresh' else 'stale' end,
  reason = case when x.age < interval '1 min' then null else 'old' end
from (select cast(%s as interval)) x(age)
"""
NASTY = "<script>alert(1)</script><img src=x onerror=alert(2)>\" onclick='alert(3)' {{ 7 * 7 }} &amp;"


@pytest.fixture
def declared(site: Site) -> None:
    """The schedule is in Redis."""
    reconcile()


def board(visitor: Visitor, expected: str, seconds: float = 60) -> str:
    """The page once it says what is expected."""
    deadline = time.monotonic() + seconds
    while expected not in (text := visitor.get("/fragment").text):
        assert time.monotonic() < deadline, text
        time.sleep(0.1)
    return text


def ran(entry: str = "sync_prices", outcome: str = "ok", error: str | None = None, **columns: Any) -> None:
    row = {
        "entry": entry, "due_at": datetime.now(UTC), "attempt": 1, "run_id": "r1", "job": f"jobs.x.{entry}",
        "queue": "default", "arguments": '{"args": [], "kwargs": {}}', "started_at": datetime.now(UTC),
        "ended_at": datetime.now(UTC), "outcome": outcome, "error": error, "dead": False, **columns,
    }  # fmt: skip
    db.rows("insert into entry (name) values (%s) on conflict do nothing", entry)
    db.rows(f"insert into run ({', '.join(row)}) values ({', '.join(['%s'] * len(row))})", *row.values())


def audit() -> list[tuple[Any, ...]]:
    return db.rows("select who, action, target from audit where action <> 'log in' order by id")


def fields(entry: str) -> dict[str, str]:
    return entries.load(db.redis(), [entry])[0].fields


# what it says


@pytest.mark.usefixtures("declared")
def test_the_page_is_whole_without_a_script(site: Site) -> None:
    ran(counts='{"written": 6, "failed": 0}', ended_at=datetime.now(UTC) - timedelta(minutes=3))
    ann = site.log_in()
    text = board(ann, '<span class="soft">written</span>')
    for expected in ("sync_prices", "3 min ago", "every 5s", "Fetch the newest price", "BTCUSD", "critical", "binance"):
        assert expected in text
    whole = ann.get("/").text
    assert '<noscript><meta http-equiv="refresh" content="10"></noscript>' in whole
    assert all(part in whole for part in ('<div id="board"', "sync_prices", '<form id="act" method="post"'))


@pytest.mark.usefixtures("declared")
def test_a_job_that_failed_says_why_in_words_and_in_the_verdict(site: Site) -> None:
    ran(outcome="failed", error="Rejected: binance refuses the key")
    text = board(site.log_in(), "Rejected: binance refuses the key")
    assert '<a href="#job-sync_prices">sync_prices failed</a>' in text


@pytest.mark.usefixtures("declared")
def test_a_job_that_is_well_on_data_that_stands_still_is_red(site: Site) -> None:
    ran()
    db.rows(QUOTE, "binance", timedelta(hours=3))
    text = board(site.log_in(), "ok, old data")
    assert "the data of sync_prices is too old" in text
    assert '3 h</time> <span class="soft">of 60 s' in text
    assert '6 prices stale</a> <span class="why">BTCUSD, EURUSD' in text


@pytest.mark.usefixtures("declared")
def test_the_data_of_a_new_desk_is_not_old_before_anything_has_run(site: Site) -> None:
    text = board(site.log_in(), "not fetched yet")
    assert "too old" not in text


@pytest.mark.usefixtures("declared")
def test_that_the_schedule_has_stopped_is_seen_without_a_scheduler(site: Site) -> None:
    db.redis().zadd("rq:scheduler:scheduled_jobs", {"sync_prices": time.time() - 60})
    text = board(site.log_in(), "The schedule has stopped")
    assert "no scheduler has moved the schedule for 6" in text
    assert 'class="verdict stopped"' in text


def test_before_anything_was_ever_started_it_says_what_to_start(site: Site) -> None:
    assert "start one: python scheduler.py" in board(site.log_in(), "No schedule is declared")


@pytest.mark.usefixtures("declared")
def test_html_in_any_field_is_text(site: Site) -> None:
    ran(outcome="failed", error=NASTY, counts=f'{{"{NASTY[:40]}": 1}}', run_id="r0")
    ran("sync_news", "failed", NASTY, dead=True, fingerprint=NASTY)
    db.rows(QUOTE, NASTY, timedelta())
    db.rows("update quote set error = %s, failing_since = now()", NASTY)
    db.rows("insert into skip values (%s, 'overlap', now(), now(), 1)", NASTY)
    redis = db.redis()
    redis.zadd("nightdesk:workers", {NASTY: time.time() * 1000})
    redis.hset(f"rq:worker:{NASTY}", "state", NASTY)
    redis.zadd("nightdesk:schedulers", {NASTY: time.time() * 1000})
    redis.sadd("rq:queues", f"rq:queue:{NASTY}")
    redis.hset("nightdesk:entry:sync_prices", mapping={"summary": NASTY, "cadence": NASTY, "source": NASTY})
    ann = site.log_in()
    board(ann, "sync_news")
    for text in (ann.get("/").text, ann.get("/fragment").text):
        assert text.count("&lt;script&gt;alert(1)") >= 10
        assert "<script>" not in text
        assert "<img" not in text
        assert "' onclick" not in text
        assert "{{ 7 * 7 }}" in text


# what its buttons do


@pytest.mark.usefixtures("declared")
def test_run_now_queues_one_run_under_the_operators_name(site: Site) -> None:
    answer = site.log_in().press("/jobs/sync_prices/run")
    assert answer.json() == {"says": "sync_prices is queued on default"}
    (run_id,) = db.redis().lrange("rq:queue:default", 0, -1)
    assert db.redis().hget(b"rq:job:" + run_id, "nd_limits") == b'[["entry:sync_prices", 1]]'
    assert audit() == [("ann", "run", "sync_prices")]


@pytest.mark.usefixtures("declared")
def test_pause_and_resume_reach_table_redis_and_page(site: Site) -> None:
    ann = site.log_in()
    assert ann.press("/jobs/sync_prices/pause").json() == {"says": "sync_prices is paused"}
    assert fields("sync_prices")["paused"] == "1"
    text = board(ann, "not while paused")
    assert 'formaction="/jobs/sync_prices/resume"' in text
    assert 'formaction="/jobs/sync_prices/pause"' not in text
    assert ann.press("/jobs/sync_prices/resume").json() == {"says": "sync_prices goes on"}
    assert fields("sync_prices")["paused"] == "0"
    assert db.rows("select paused from entry where name = 'sync_prices'") == [(False,)]
    assert audit() == [("ann", "pause", "sync_prices"), ("ann", "resume", "sync_prices")]


@pytest.mark.usefixtures("declared")
def test_a_button_works_as_a_plain_form(site: Site) -> None:
    ann = site.log_in()
    answer = ann.post("/jobs/sync_prices/pause", data={"csrf": ann.csrf}, headers={"origin": site.url})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert fields("sync_prices")["paused"] == "1"


@pytest.mark.usefixtures("declared")
def test_a_job_or_letter_that_is_not_there_is_said_and_not_audited(site: Site) -> None:
    ann = site.log_in()
    assert ann.press("/jobs/sync_price/run").json() == {"error": "no such job"}
    assert "somebody was faster" in ann.press("/dead/ffff/retry").json()["error"]
    assert ann.get("/jobs/sync_prices/run").status_code == 405
    assert audit() == []


def test_dead_letters_are_retried_and_discarded_by_group(site: Site) -> None:
    for number in range(5):
        ran(outcome="failed", error="boom", dead=True, run_id=f"r{number}", fingerprint="aa" if number < 3 else "bb")
    ann = site.log_in()
    assert "Discard 3 for good" in board(ann, "3 × sync_prices")
    assert ann.press("/dead/aa/retry").json() == {"says": "3 runs are queued again"}
    assert sorted(db.redis().lrange("rq:queue:default", 0, -1)) == [b"r0", b"r1", b"r2"]
    assert ann.press("/dead/aa/retry").status_code == 404
    assert ann.press("/dead/bb/discard").json() == {"says": "2 runs are closed"}
    assert db.redis().llen("rq:queue:default") == 3
    assert audit() == [("ann", "retry", "aa"), ("ann", "discard", "bb")]
    board(ann, "None. A run that fails")


@pytest.mark.usefixtures("declared")
def test_a_viewer_sees_everything_but_buttons(site: Site) -> None:
    ran(outcome="failed", error="boom", dead=True, fingerprint="aa")
    text = board(site.log_in("vic", "viewer"), "1 × sync_prices")
    assert "formaction" not in text
    assert 'formaction="/jobs/sync_prices/pause"' in board(site.log_in(), "1 × sync_prices")


# servers away


@pytest.mark.usefixtures("declared")
def test_while_redis_is_away_the_page_says_so_and_then_comes_back(site: Site, valkey: Any) -> None:
    ann = site.log_in()
    valkey.stop()
    try:
        time.sleep(0.6)
        refresh = ann.get("/fragment")
        first_paint = ann.get("/", headers={"accept": "text/html"})
        assert ann.get("/healthz").status_code == 200
        assert ann.get("/readyz").json() == {"ready": False, "away": ["Redis"]}
    finally:
        valkey.start()
    assert (refresh.status_code, refresh.json()["error"]) == (503, "Redis is away; try again in a moment")
    assert first_paint.status_code == 503
    assert "Redis is away." in first_paint.text
    assert '<meta http-equiv="refresh" content="3">' in first_paint.text
    board(ann, 'id="board"')


def test_an_entry_with_a_cadence_that_is_none_is_not_paused_and_says_why(site: Site) -> None:
    db.rows("insert into entry (name, cadence) values ('sync_prices', 'until_off 10s')")
    answer = site.log_in().press("/jobs/sync_prices/pause")
    assert (answer.status_code, "until_off 10s" in answer.text) == (409, True)


# the verdict, without a server


def snapshot(**changes: Any) -> dict[str, Any]:
    well: dict[str, Any] = {
        "schedule_moves": True, "schedule_behind_s": 0.0, "schedulers": [{"name": "s"}],
        "workers": [{"name": "w", "bad": False}], "obstacles": [],
        "entries": [], "quotes": [], "providers": [], "dead": [],
        "delivery": {"off": False, "resting": []}, "deposits": {"chains": [], "pauses": []},
    }  # fmt: skip
    return {**well, **changes}


def quote(symbol: str, state: str, **changes: Any) -> dict[str, Any]:
    return {"symbol": symbol, "state": state, "error": None, "reason": None, "awaited": False, **changes}


def test_all_is_well_when_nothing_is_wrong() -> None:
    found = verdict(snapshot())
    assert (found.says, found.level, found.problems, found.title) == ("All is well", "well", (), "Nightdesk")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"workers": []}, "no worker is alive"),
        ({"obstacles": [{"what": "the work is suspended", "remedy": "say `rq resume`"}]}, "the work is suspended"),
        ({"workers": [{"name": "w", "bad": False}, {"name": "x", "bad": True}]}, "a worker is silent"),
        ({"quotes": [quote("BTCUSD", "stale", reason="old")]}, "1 price stale"),
        ({"providers": [{"name": "yahoo", "bad": True, "off": None, "error": "503", "breaker": "open"}]},
         "yahoo is not asked for now"),
        ({"dead": [{"letters": 2, "error": "boom"}]}, "2 dead letters"),
        ({"delivery": {"off": True, "resting": []}}, "no message is delivered"),
        ({"deposits": {"chains": [], "pauses": [{"asset": "ETH", "reason": "a drift"}]}}, "nothing is credited in ETH"),
        ({"deposits": {"chains": [{"chain": "bsc", "paused": None, "error": "lags", "failing": True}], "pauses": []}},
         "bsc is not read"),
        ({"delivery": {"off": False, "resting": [{"name": "email", "reason": "smtp: login: 535"}]}},
         "nothing goes by email for now"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_reason(changes: dict[str, Any], says: str) -> None:
    found = verdict(snapshot(**changes))
    assert (found.says, found.level) == ("1 thing needs a look", "look")
    assert found.problems[0].what == says
    assert found.problems[0].why


def test_a_price_that_cannot_be_there_yet_is_no_problem_and_any_other_that_lacks_is() -> None:
    found = verdict(snapshot(quotes=[quote("AAPL", "missing", awaited=True), quote("EURUSD", "missing")]))
    assert [(problem.what, problem.why) for problem in found.problems] == [
        ("1 price missing", "EURUSD: not fetched yet")
    ]


def test_a_provider_that_is_off_by_choice_is_no_problem() -> None:
    off = {"name": "yahoo", "bad": True, "off": "YAHOO is off", "error": None, "breaker": "open"}
    assert verdict(snapshot(providers=[off])).level == "well"


def test_a_stopped_schedule_goes_before_everything() -> None:
    found = verdict(snapshot(schedule_moves=False, schedule_behind_s=75.0, dead=[{"letters": 1, "error": "x"}]))
    assert (found.says, found.level) == ("The schedule has stopped", "stopped")
    assert found.title.startswith("The schedule has stopped")
    assert "75 s" in found.problems[0].why


@pytest.mark.parametrize(
    ("digits", "text"),
    [
        ("99402.57000000", "99402.57"),
        ("1.1498", "1.1498"),
        ("100", "100.00"),
        ("1E-8", "0.00000001"),
        ("1E+3", "1000.00"),
    ],
)
def test_a_price_keeps_the_digits_that_say_something(digits: str, text: str) -> None:
    assert page.amount(Decimal(digits)) == text


@pytest.mark.parametrize(
    ("seconds", "kind", "text"),
    [(-65, "ago", "65 s ago"), (-3, "age", "3 s"), (12, "due", "in 12 s"), (0.4, "due", "now"), (-1, "due", "now"),
     (-90, "due", "90 s overdue"), (0, "at", "2026-11-23 12:00:00 UTC"), (5, "ago", "0 s ago")],
)  # fmt: skip
def test_instants_are_said_as_the_script_goes_on_saying_them(seconds: float, kind: str, text: str) -> None:
    at = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert page.tick(at + timedelta(seconds=seconds), kind, at) == text
