"""The operator's page in a real browser: what a person sees, presses and is told."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

import db
import events
from cli.migrate import reconcile
from demo.server import running
from domain.links import Unsubscribe, token
from domain.sessions import WEEKS, regular_sessions
from models import operators, sessions, targets
from models.alerts import user_with
from tests.waiting import until
from tests.web import chromium
from tests.web.conftest import PASSWORD, Site
from tests.web.test_console import NASTY, QUOTE, audit, fields, ran

pytestmark = pytest.mark.skipif(not chromium.PROGRAM, reason="there is no Chromium here: apt-get install chromium")
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def browser() -> Iterator[chromium.Chromium]:
    browser = chromium.Chromium()
    yield browser
    browser.close()


@pytest.fixture
def page(browser: chromium.Chromium, site: Site) -> Iterator[chromium.Page]:
    """A stranger's tab, over a schedule that is declared."""
    reconcile()
    time.sleep(0.6)  # until the snapshot of the test before is no longer shown
    page = browser.page()
    page.look(1440, 900)
    yield page
    page.open.close()


def log_in(page: chromium.Page, site: Site, name: str = "ann", role: str = "operator") -> None:
    site.let_in(name, role)
    page.go(f"{site.url}/")
    page.write("#name", name)
    page.write("#password", PASSWORD)
    page.press("Enter")
    page.until(f"!!document.getElementById('board') && {chromium.LOADED}")


def banner(page: chromium.Page) -> str:
    return str(page.js("document.getElementById('away').hidden ? '' : document.getElementById('away').innerText"))


@pytest.mark.slow
def test_prices_move_and_a_pressed_pause_is_seen_in_a_shell(
    page: chromium.Page, site: Site, start: Start, nightdesk: Callable[..., Any]
) -> None:
    today = datetime.now(UTC).date()
    known = [session for market in WEEKS for session in regular_sessions(market, today, today + sessions.AHEAD)]
    sessions.replace(known, dict.fromkeys(WEEKS, "rule"), today, today + sessions.AHEAD)  # as a release does
    with running(seed=1) as world:
        start("python", "scheduler.py", **world.environment)
        start("rq", "worker", "-S", "json", "-w", "queues.Worker", "critical", "default", "low", **world.environment)
        log_in(page, site)
        price = "document.querySelector('[data-symbol=BTCUSD] [data-field=price]').textContent"
        page.until(f"{price} !== '–'")
        page.js("window.sameDocument = true")
        before = page.js(price)
        page.until(f"{price} !== {json.dumps(before)}")
        page.until("document.getElementById('verdict').innerText.includes('All is well')")
        page.click("[formaction='/jobs/sync_prices/pause']")
        page.until("document.getElementById('say').textContent === 'sync_prices is paused'")
        page.until("!!document.querySelector('[formaction=\"/jobs/sync_prices/resume\"]')")
        entries = {entry["entry"]: entry for entry in json.loads(nightdesk("status", "--json").stdout)["entries"]}
        assert entries["sync_prices"]["state"] == "paused"
        assert entries["check_alerts"]["state"] != "paused"
        assert audit() == [("ann", "pause", "sync_prices")]
        assert page.js("document.activeElement.getAttribute('formaction')") == "/jobs/sync_prices/resume"
        page.press("Enter")
        page.until("!!document.querySelector('[formaction=\"/jobs/sync_prices/pause\"]')")
        assert fields("sync_prices")["paused"] == "0"
        assert page.js("window.sameDocument")
    assert page.complaints() == []
    assert {url for url in page.asked() if not url.startswith((site.url, "data:"))} == set()


def test_a_quote_reaches_its_cell_at_once_and_escaped(page: chromium.Page, site: Site) -> None:
    db.rows(QUOTE, "binance", "0 s")
    log_in(page, site)
    cell = "document.querySelector('[data-symbol=BTCUSD] [data-field=%s]').textContent"
    quote = {"symbol": "BTCUSD", "price": "99402.57000000", "previous": "99402.5", "source": NASTY}

    def arrives() -> bool:
        events.broadcast("quote", {**quote, "happened_at": "2100-01-01T00:00:00+00:00"})
        return bool(page.js(cell % "price") == "99402.57")

    until(arrives, every=0.05)
    assert page.js(cell % "direction") == "▲"
    assert page.js(cell % "source") == NASTY
    events.broadcast("quote", {**quote, "symbol": NASTY, "happened_at": "2100-01-01T00:00:00+00:00"})
    events.broadcast("quote", {**quote, "price": "1", "happened_at": "2000-01-01T00:00:00+00:00"})  # old news
    time.sleep(0.3)
    assert page.js(cell % "price") == "99402.57"
    assert page.complaints() == []


def test_html_in_any_field_is_inert(page: chromium.Page, site: Site) -> None:
    ran(outcome="failed", error=NASTY, dead=True, fingerprint="aa", counts=json.dumps({NASTY: 1}))
    db.rows(QUOTE, NASTY, "3 h")
    db.redis().zadd("nightdesk:workers", {NASTY: time.time() * 1000})
    db.redis().hset("nightdesk:entry:sync_prices", mapping={"summary": NASTY, "cadence": NASTY})
    page.call("Page.addScriptToEvaluateOnNewDocument", source="window.alert = () => { window.pwned = true }")
    log_in(page, site)
    page.until("document.body.innerText.includes('<script>alert(1)</script>')")
    time.sleep(1.5)  # a refresh, by the script
    assert page.js("window.pwned === undefined")
    assert page.js("document.querySelectorAll('main script, main img, main [onclick]').length") == 0
    page.click("details.confirm > summary")
    page.click("details.confirm button")
    page.until("document.getElementById('say').textContent === '1 run is closed'")
    assert page.complaints() == []


def test_a_viewer_sees_no_button_and_the_server_refuses_what_a_script_tries(page: chromium.Page, site: Site) -> None:
    ran(outcome="failed", error="boom", dead=True, fingerprint="aa")
    log_in(page, site, "vic", "viewer")
    page.until("document.body.innerText.includes('1 × sync_prices')")
    assert page.js("[...document.querySelectorAll('button')].map(b => b.textContent)") == ["Log out"]
    tried = (
        "fetch('/jobs/sync_prices/pause', {method: 'POST', headers: {"
        "'x-csrf': document.getElementById('act').elements.csrf.value}}).then(answer => answer.status)"
    )
    assert page.js(tried) == 403
    assert fields("sync_prices")["paused"] == "0"


def test_the_banner_turns_red_when_the_schedule_stops_and_back_when_it_moves(page: chromium.Page, site: Site) -> None:
    due = db.redis().zrange("rq:scheduler:scheduled_jobs", 0, -1)
    db.redis().zadd("rq:scheduler:scheduled_jobs", {name: time.time() + 600 for name in due})
    log_in(page, site)
    page.until("!document.querySelector('.verdict.stopped')")
    db.redis().zadd("rq:scheduler:scheduled_jobs", {"sync_prices": time.time() - 60})
    page.until("!!document.querySelector('.verdict.stopped')")
    assert "The schedule has stopped" in page.text()
    assert page.js("document.title").startswith("The schedule has stopped")
    assert page.js("getComputedStyle(document.querySelector('.verdict h1')).color") == "rgb(178, 38, 30)"
    db.redis().zadd("rq:scheduler:scheduled_jobs", {name: time.time() + 600 for name in due})
    page.until("!document.querySelector('.verdict.stopped')")
    assert page.complaints() == []


@pytest.mark.parametrize("name", ["Redis", "PostgreSQL"])
def test_a_server_that_is_away_is_said_with_the_age_of_what_is_shown(
    page: chromium.Page, site: Site, valkey: Any, postgres: Any, name: str
) -> None:
    log_in(page, site)
    server = {"Redis": valkey, "PostgreSQL": postgres}[name]
    db.database.close()
    server.stop()
    try:
        page.until(f"document.getElementById('away-why').textContent.includes('{name} is away')")
        assert "You see what was so" in banner(page)
        assert "s ago" in banner(page)
        assert page.js("!!document.getElementById('job-sync_prices')") or name == "Redis"
    finally:
        server.start()
    reconcile()
    page.until("document.getElementById('away').hidden")
    page.until("!!document.getElementById('job-sync_prices')")


def test_a_lost_connection_is_said_and_mends_by_itself(page: chromium.Page, site: Site) -> None:
    log_in(page, site)
    broken = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.call("Network.emulateNetworkConditions", offline=True, **broken)
    page.until("document.getElementById('away-why').textContent === 'Nightdesk does not answer.'")
    page.click("[formaction='/jobs/sync_prices/run']")
    page.until("document.getElementById('say').textContent.startsWith('Not done, as far as we know')")
    page.call("Network.emulateNetworkConditions", offline=False, **broken)
    page.until("document.getElementById('away').hidden")


def test_a_session_that_has_ended_is_said_with_the_way_back(page: chromium.Page, site: Site) -> None:
    log_in(page, site)
    operators.disable("ann")
    page.until("document.getElementById('away-why').textContent === 'Your session has ended.'")
    page.click("#away-login")
    page.until("!!document.getElementById('password')")


def test_everything_can_be_done_by_keyboard_and_nothing_is_thrown_away_by_one_press(
    page: chromium.Page, site: Site
) -> None:
    ran(outcome="failed", error="boom", dead=True, fingerprint="aa")
    log_in(page, site)
    page.until("document.body.innerText.includes('1 × sync_prices')")
    page.js("document.body.focus()")
    page.press("Tab")
    assert page.js("document.activeElement.className") == "skip"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    for _ in range(300):
        page.press("Tab")
        assert page.js(outline) != "none", page.js("document.activeElement.outerHTML")
        if page.js("document.activeElement.nodeName") == "SUMMARY":
            break
    page.press("Enter")
    page.until("document.querySelector('details.confirm').open")
    page.press("Escape")
    page.until("!document.querySelector('details.confirm').open")
    assert page.js("document.activeElement.nodeName") == "SUMMARY"
    page.press(" ")
    time.sleep(1.2)  # a refresh leaves it open
    page.js("document.dispatchEvent(new Event('visibilitychange'))")
    page.until("document.querySelector('details.confirm').open")
    assert db.rows("select count(*) from run where settled_at is null") == [(1,)]
    page.press("Tab")
    assert page.js("document.activeElement.textContent").startswith("Discard 1 for good")
    page.press("Enter")
    page.until("document.getElementById('say').textContent === '1 run is closed'")
    page.until("!document.querySelector('details.confirm')")
    assert audit() == [("ann", "discard", "aa")]


# every text against what lies behind it, as WCAG AA asks: 4.5, or 3 for large type
PALE = """
(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, part, i) => {
    const v = c[i] / 255;
    return sum + part * (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  }, 0);
  const over = (top, under, a) => top.map((v, i) => (i < 3 ? v * a + under[i] * (1 - a) : 1));
  const behind = (e) => {
    if (!e) return rgb(getComputedStyle(document.body).backgroundColor);
    const c = rgb(getComputedStyle(e).backgroundColor);
    return c.length < 4 || c[3] === 1 ? c : behind(e.parentElement);
  };
  const opacity = (e) => (e ? Number(getComputedStyle(e).opacity) * opacity(e.parentElement) : 1);
  const pale = [];
  for (const e of document.querySelectorAll("body *")) {
    const says = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!says || !e.checkVisibility() || e.closest(".unseen, .heads")) continue;
    const style = getComputedStyle(e);
    const ground = behind(e);
    const [a, b] = [light(over(rgb(style.color), ground, opacity(e))), light(ground)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    if (ratio < (size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5))
      pale.push(`${ratio.toFixed(2)} ${e.className} ${e.textContent.trim().slice(0, 40)}`);
  }
  return pale;
})()
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_fits_and_can_be_read(page: chromium.Page, site: Site, width: int, dark: bool) -> None:
    ran(outcome="failed", error="Rejected: " + "a-word-without-an-end" * 20, dead=True, fingerprint="aa")
    ran("sync_news", counts='{"written": 6}', run_id="r2")
    db.rows(QUOTE, "gold-api", "3 h")
    db.rows("insert into skip values ('deliver_notifications', 'overlap', now() - interval '2 h', now(), 1440)")
    db.redis().zadd("rq:scheduler:scheduled_jobs", {"sync_prices": time.time() - 60})
    db.redis().hset("nightdesk:entry:prune_prices", "paused", "1")
    page.look(width, 900, dark=dark)
    page.go(f"{site.url}/login")
    assert page.js(PALE) == []
    log_in(page, site)
    page.until(f"!!document.querySelector('.verdict.stopped') && {chromium.LOADED}")
    assert page.wider_than(width) == []
    cut = "[...document.querySelectorAll('.card')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText)"
    assert page.js(cut) == []
    assert page.js(PALE) == []
    names = page.js("[...document.querySelectorAll('button, summary')].map(b => b.textContent)")
    assert len(names) == len(set(names)), "each button says of what it is"
    ids = page.js("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def test_the_link_of_a_mail_asks_first_and_one_press_unsubscribes(page: chromium.Page, site: Site) -> None:
    user = user_with("ann@example.com")
    page.look(390, 800)
    page.go(f"{site.url}/unsubscribe/{token(targets.link_key(), Unsubscribe(user, 'email', 'alert'))}")
    assert "No more “alert” messages by mail?" in page.text()
    assert db.rows("select count(*) from preference") == [(0,)]
    page.click("#unsubscribe")
    page.until("!!document.getElementById('done')")
    assert db.rows("select user_id, kind, channel, wanted from preference") == [(user, "alert", "email", False)]
