"""The one door out, over real sockets: each documented error, each fault, and what must never get through."""

from __future__ import annotations

import logging
import socket
import traceback
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import config
from clients import http
from clients.http import Limits, Refused, retry_after
from domain.failures import Rejected, Unavailable
from tests.waiting import stopwatch

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
PRICE = "/api/v3/ticker/price"
BTC = {"symbol": "BTCUSDT"}


def answer(text: str, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(text)}", "Connection: close", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + text).encode()


def whole_story(wrong: BaseException) -> str:
    """All that a log, a traceback or an error tracker could show of an exception."""
    seen, todo, told = set(), [wrong], []
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        told += [repr(one), str(one), *map(repr, one.args), *traceback.format_exception(one)]
        todo += [one.__cause__, one.__context__]
    return "\n".join(told)


def test_an_answer_comes_with_its_headers_and_its_time(demo, provider):
    got = http.get(provider(), PRICE, BTC)
    assert got.status == 200
    assert got.body.startswith(b'{"symbol":"BTCUSDT","price":"')
    assert int(got.headers["x-mbx-used-weight-1m"]) >= 2
    assert datetime.now(UTC) - got.received_at < timedelta(seconds=5)


def test_we_say_who_we_are(raw, provider, settings, redis):
    requests = raw(answer("{}"))
    settings(contact="ops@example.org", code_version="abc123")
    http.get(provider(), "/")
    assert b"User-Agent: nightdesk/abc123 (ops@example.org)\r\n" in requests[0]


def test_a_provider_may_want_another_user_agent(raw, provider, redis):
    requests = raw(answer("{}"))
    http.get(provider(headers={"User-Agent": "Mozilla/5.0"}), "/")
    assert requests[0].count(b"User-Agent: Mozilla/5.0\r\n") == 1
    assert requests[0].count(b"User-Agent") == 1


@pytest.mark.parametrize("status", [500, 502, 503, 429, 418, 408])
def test_what_may_pass_by_itself_is_unavailable(demo, provider, status):
    demo.faults.add("binance", status)
    with pytest.raises(Unavailable, match=f"example: GET .*{PRICE}.*: {status}"):
        http.get(provider(), PRICE, BTC)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422, 451])
def test_what_a_person_must_look_at_is_rejected_with_what_was_asked_and_said(demo, provider, status):
    demo.faults.add("binance", status)
    with pytest.raises(Refused, match=f"example: GET .*{PRICE}.symbol=BTCUSDT: {status} .*msg") as refused:
        http.get(provider(), PRICE, BTC)
    assert refused.value.status == status
    assert b'"code"' in refused.value.body


def test_a_redirect_is_refused_and_never_followed(demo, provider):
    demo.faults.add("binance", "redirect", location=f"{demo.url}/gold-api/price/XAU")
    with pytest.raises(Rejected, match=r"302 moved to http://127\.0\.0\.1.*not followed"):
        http.get(provider(), PRICE, BTC)
    assert demo.requests["gold-api"] == 0


@pytest.mark.parametrize("fault", ["reset", "truncated"])
def test_a_lost_connection_is_unavailable(demo, provider, fault):
    demo.faults.add("binance", fault)
    with pytest.raises(Unavailable, match=r"lost|cut short"):
        http.get(provider(), PRICE, BTC)


def test_nobody_listening_is_unavailable(provider, settings, redis):
    settings(binance_url="http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="no connection: refused or unreachable"):
        http.get(provider(), "/")


def test_an_unknown_host_is_unavailable(provider, settings, redis, monkeypatch):
    asked = socket.getaddrinfo

    def no_such_name(host, *more, **options):  # as a name server says it, and here there may be none
        if host == "nowhere.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return asked(host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    settings(binance_url="http://nowhere.invalid")
    with pytest.raises(Unavailable, match="name is not found"):
        http.get(provider(), "/")


def test_a_slow_answer_is_unavailable_when_the_read_time_out_is_over(demo, provider):
    demo.faults.add("binance", "slow", seconds=3)
    with stopwatch() as took, pytest.raises(Unavailable, match=r"no answer within 0\.3 s"):
        http.get(provider(read_timeout=0.3), PRICE, BTC)
    assert took.seconds < 2


def test_a_dripping_body_is_cut_at_the_deadline(demo, provider):
    demo.faults.add("binance", "drip", seconds=0.1)
    with stopwatch() as took, pytest.raises(Unavailable, match=r"not complete within 0.5 s"):
        http.get(provider(deadline=0.5), PRICE, BTC)
    assert took.seconds < 2


def test_dripping_headers_are_cut_at_the_read_time_out(raw, provider, redis):
    raw(answer("{}", *(f"X-{n}: {n}" for n in range(90))), pause=0.05)
    with stopwatch() as took, pytest.raises(Unavailable):
        http.get(provider(read_timeout=0.5), "/")
    assert took.seconds < 2


@pytest.mark.parametrize("fault", ["flood", "bomb"])
def test_a_body_of_100_megabytes_is_cut_at_the_limit(demo, provider, fault):
    demo.faults.add("binance", fault)
    with pytest.raises(Rejected, match="more than 2000000 bytes"):
        http.get(provider(deadline=60, read_timeout=30), PRICE, BTC)


def test_broken_compression_is_rejected(raw, provider, redis):
    raw(answer("this is not gzip", "Content-Encoding: gzip"))
    with pytest.raises(Rejected, match="compression is unreadable"):
        http.get(provider(), "/")


def test_what_is_not_http_is_unavailable(raw, provider, redis):
    raw(b"220 mail.example.org ESMTP\r\n")
    with pytest.raises(Unavailable, match="lost"):
        http.get(provider(), "/")


def test_a_provider_that_is_off_is_not_asked(demo, settings, provider):
    settings(yahoo=False)
    with pytest.raises(Rejected, match="example is off: YAHOO is off"):
        http.get(provider(needs="yahoo"), PRICE, BTC)
    assert demo.requests["binance"] == 0


def test_a_get_is_tried_again_after_a_short_wait(demo, provider, monkeypatch):
    demo.faults.add("binance", 503)
    monkeypatch.setattr(http, "time", SimpleNamespace(sleep=lambda wait: wait < 1 and demo.faults.clear()))
    assert http.get(provider(tries=3), PRICE, BTC).status == 200
    assert demo.requests["binance"] == 2


def test_a_long_retry_after_is_not_waited_for(demo, provider, monkeypatch):
    demo.faults.add("binance", 429, retry_after="120")
    waits = []
    monkeypatch.setattr(http, "time", SimpleNamespace(sleep=waits.append))
    with pytest.raises(Unavailable) as wait:
        http.get(provider(tries=3), PRICE, BTC)
    assert wait.value.retry_after == 120
    assert waits == []
    assert demo.requests["binance"] == 1


def test_a_post_is_never_tried_again(demo, provider):
    demo.faults.add("binance", 503)
    with pytest.raises(Unavailable):
        http.post(provider(tries=3), PRICE, b"{}")
    assert demo.requests["binance"] == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        ("0.25", 0.25),
        ("86400", 900),
        ("Sun, 22 Nov 2026 12:00:30 GMT", 30),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 0),
        ("Mon, 23 Nov 2026 12:00:00 GMT", 900),
        ("-5", 0),
        ("inf", 900),
        ("nan", None),
        ("", None),
        ("soon", None),
        ("Sun, 99 Nov 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_a_fraction_or_a_date_and_at_most_15_minutes(text, seconds):
    assert retry_after(text, NOW) == seconds


@given(st.text())
def test_any_retry_after_is_from_0_to_15_minutes_or_none(text):
    seconds = retry_after(text, NOW)
    assert seconds is None or 0 <= seconds <= 900


def test_a_429_without_a_time_keeps_us_away_for_the_providers_penalty(demo, provider):
    demo.faults.add("binance", 429)
    with pytest.raises(Unavailable) as wait:
        http.get(provider(penalty=900), PRICE, BTC)
    assert wait.value.retry_after == 900
    demo.faults.clear()
    with pytest.raises(Unavailable, match="not asked after repeated failures") as wait:
        http.get(provider(penalty=900), PRICE, BTC)
    assert wait.value.retry_after == pytest.approx(900, abs=5)
    assert demo.requests["binance"] == 1


def test_what_has_not_changed_is_not_sent_again(demo, provider):
    rates = provider(url="frankfurter_url")
    first = http.get(rates, "/latest", {"base": "EUR"})
    second = http.get(rates, "/latest", {"base": "EUR"})
    assert second.body == first.body
    assert second.status == 200
    assert second.received_at > first.received_at
    assert demo.requests["frankfurter"] == 2


def test_a_304_that_nobody_asked_for_is_rejected(raw, provider, redis):
    raw(answer("", status="304 Not Modified"))
    with pytest.raises(Rejected, match="304"):
        http.get(provider(), "/")


def test_a_young_answer_is_served_again_with_its_own_time(demo, provider):
    first = http.get(provider(), PRICE, BTC, min_age=60)
    again = http.get(provider(), PRICE, BTC, min_age=60)
    assert (again.body, again.received_at) == (first.body, first.received_at)
    assert demo.requests["binance"] == 1
    http.get(provider(), PRICE, BTC, min_age=0)
    assert demo.requests["binance"] == 2


def test_a_cache_control_is_heeded_where_the_provider_asks_for_it(demo, provider):
    http.get(provider(url="gold_api_url", heeds_cache_control=True), "/price/XAU")
    http.get(provider(url="gold_api_url", heeds_cache_control=True), "/price/XAU")
    assert demo.requests["gold-api"] == 1


def test_a_refused_question_is_not_asked_again_within_a_minute(demo, provider):
    for _ in range(3):
        with pytest.raises(Refused, match="Invalid symbol"):
            http.get(provider(), PRICE, {"symbol": "NOSUCH"})
    assert demo.requests["binance"] == 1


def test_a_failure_is_not_remembered(demo, provider):
    demo.faults.add("binance", 500)
    with pytest.raises(Unavailable):
        http.get(provider(), PRICE, BTC, min_age=60)
    demo.faults.clear()
    assert http.get(provider(), PRICE, BTC, min_age=60).status == 200


HOOK = "0h00k0"
SECRET = "s3cr3t/key+with=signs"
SETTING = "smtp://desk:hunter2hunter2@mail.example.org:587"


@pytest.mark.parametrize("fault", ["reset", "slow", "truncated", "flood", "redirect", "401", "404", "429", "500", None])
def test_no_secret_is_in_an_exception_its_causes_its_log_or_the_last_error(
    demo, provider, settings, caplog, database, fault
):
    caplog.set_level(logging.DEBUG)
    settings(smtp_url=SETTING)
    if fault:
        demo.faults.add("binance", fault, seconds=2, location=f"http://x.example/?apiKey={SECRET}")
    params = {"symbol": "NOSUCH", "apiKey": SECRET, "mail": SETTING}
    headers = {"X-Access-Token": SECRET, "Authorization": f"Bearer {SECRET}"}
    with pytest.raises((Unavailable, Rejected)) as wrong:
        http.get(provider(read_timeout=0.3), PRICE, params, headers=headers)
    told = whole_story(wrong.value) + caplog.text + repr(http.gate.states({"example": provider()}, datetime.now(UTC)))
    assert wrong.value.__cause__ is None
    assert "hunter2" not in told
    assert "s3cr3t" not in told
    assert "NOSUCH" in told


def test_a_header_that_can_not_be_sent_is_rejected_without_its_value(demo, provider):
    with pytest.raises(Rejected, match="can't be sent") as wrong:
        http.get(provider(), PRICE, BTC, headers={"X-Key": f"{SECRET}\r\nHost: elsewhere"})
    assert SECRET not in whole_story(wrong.value)


def test_the_echo_of_a_secret_is_not_told(raw, provider, settings, redis):
    raw(answer('{"message": "wrong api_key=s3cr3t of smtp://desk:hunter2hunter2@mail"}', status="403 Forbidden"))
    settings(smtp_url=SETTING)
    with pytest.raises(Refused) as wrong:
        http.get(provider(), "/")
    assert "s3cr3t" not in whole_story(wrong.value)
    assert "hunter2" not in whole_story(wrong.value)


def test_the_providers_own_counters_and_last_error_are_in_its_state(demo, database):
    from clients import binance

    demo.faults.add("binance", 500)
    with pytest.raises(Unavailable):
        binance.fetch_tickers(["BTCUSDT"])
    demo.faults.clear()
    binance.fetch_tickers(["BTCUSDT"])
    state = next(state for state in http.status() if state.name == "binance")
    assert int(state.counters["X-MBX-USED-WEIGHT-1M"]) >= 2
    assert "500" in state.error
    assert state.ok_at > state.error_at
    assert (state.off, state.breaker, state.windows[0].used) == (None, "closed", 4)


def test_a_fork_opens_its_own_connections(demo, provider):
    import os

    http.get(provider(), PRICE, BTC)
    child = os.fork()
    if not child:
        from clients.transfer import _pools

        os._exit(_pools.cache_info().currsize)
    assert os.waitpid(child, 0)[1] == 0
    assert http.get(provider(), PRICE, BTC).status == 200


def test_a_url_of_a_user_is_reached(demo):
    assert http.send("GET", f"{demo.url}/gold-api/symbols").status == 200


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/",
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "example.org",
        "http://user:pw@example.org/",
        "http://example.org\\@127.0.0.1/",
        "http://exa mple.org/",
        "http://example.org/\r\nX: y",
        "http://example.org:99999/",
        "http://example.org:0/",
        "http://[::1/",
        "",
    ],
)
def test_what_is_no_public_web_address_is_rejected(url):
    with pytest.raises(Rejected):
        http.send("POST", url, b"{}")


def test_a_users_url_is_told_by_its_host_alone(demo, settings):
    demo.faults.add("gold-api", 404)
    with pytest.raises(Refused) as wrong:
        http.send("POST", f"{demo.url}/gold-api/hooks/{HOOK}?token={HOOK}", HOOK.encode())
    assert str(wrong.value) == f"POST {demo.url}: 404"
    assert HOOK not in whole_story(wrong.value)


def test_a_users_url_has_the_same_limits(demo):
    demo.faults.add("gold-api", "flood")
    with pytest.raises(Rejected, match="more than 1000 bytes"):
        http.send("GET", f"{demo.url}/gold-api/symbols", limits=Limits(max_bytes=1000))
    demo.faults.clear()
    demo.faults.add("gold-api", 429, retry_after="4")
    with pytest.raises(Unavailable) as wait:
        http.send("GET", f"{demo.url}/gold-api/symbols")
    assert wait.value.retry_after == 4


def test_the_settings_are_not_in_any_repr():
    assert "redis" not in repr(config.settings)
