"""What a message says, and that nothing in it does harm."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.notifications import LONGEST_TEXT, MOST_LINES, inert, known_zone, message, together

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DATA = {
    "alert_id": 12, "subject": "BTCUSD", "stream": "price", "value": "97012.5", "touches": 0,
    "previous": "96990", "source": "binance",
    "happened_at": "2026-11-23T12:00:05+00:00", "received_at": "2026-11-23T12:00:06+00:00",
    "rule": {
        "condition": "crosses", "level": "97000", "direction": "up", "measure": "price", "frequency": "once",
        "bar": None, "base": None, "cooldown": None, "target": "97000", "band": "0", "way_back": "194",
    },
}  # fmt: skip


def news(title: str = "Hello", kind: str = "order", zone: str = "UTC", data=None, subject=None, at=NOW) -> dict:
    return {"key": "k", "kind": kind, "severity": "info", "subject": subject, "title": title, "data": data or {},
            "created_at": at, "zone": zone}  # fmt: skip


def said(data=None, **more) -> list[tuple[str, str]]:
    return [(line.label, line.value) for line in message(news(data=data, **more)).lines]


def test_a_message_tells_price_rule_and_times_in_the_users_zone():
    made = message(news("BTCUSD crossed 97000 upwards, at 97012.5", "alert", "Asia/Bangkok", DATA))
    assert made.title == "BTCUSD crossed 97000 upwards, at 97012.5"
    assert [(line.label, line.value) for line in made.lines] == [
        ("Price", "97012.5 from binance, before it 96990"),
        ("Time", "23 Nov 2026 19:00:05 +07"),
        ("Known here", "1 s later"),
        ("Alert 12", "BTCUSD crosses 97000 (up)"),
    ]


def test_a_message_names_the_rule_in_words_and_of_an_event_no_number():
    percent = {"condition": "percent_up", "level": "1.5", "direction": None, "base": "24h", "frequency": "every",
               "cooldown": "7200.000000"}  # fmt: skip
    data = {**DATA, "stream": "price/24h", "received_at": "2026-11-23T18:00:05+00:00", "touches": 3,
            "value": "1.504321", "previous": None,
            "about": "101.504321 against 100 of 2026-11-22 12:00:00+00"}  # fmt: skip
    found = said({**data, "rule": {**DATA["rule"], **percent}}, kind="alert")
    assert [*found[:3], *found[4:]] == [
        ("Value", "1.5 % from binance"), ("Price", "101.504321, from 100"),
        ("Counted from", "22 Nov 2026 12:00:00 UTC"), ("Known here", "6 h later"),
        ("Touched", "3 times since the last message"),
        ("Alert 12", "BTCUSD: up 1.5 % in 24h, every time with 2 h between"),
    ]  # fmt: skip
    mention = {"condition": "happens", "level": "0", "direction": None, "measure": "mention"}
    found = said({**DATA, "stream": "mention", "rule": {**DATA["rule"], **mention}}, kind="alert")
    assert (found[0], found[-1]) == (("From", "binance"), ("Alert 12", "BTCUSD mention happens"))


def test_a_message_about_a_date_tells_the_day_or_the_instant_in_the_users_zone():
    date = {**DATA, "subject": "AAPL", "stream": "report_date", "value": "1797379200", "source": "finnhub",
            "rule": {**DATA["rule"], "condition": "within", "level": "604800", "direction": None,
                     "measure": "report_date"}}  # fmt: skip
    assert said(date, kind="alert", zone="America/New_York") == [
        ("Date", "16 Dec 2026"), ("From", "finnhub"), ("Known here", "23 Nov 2026 07:00:06 EST"),
        ("Alert 12", "AAPL: 7 d before it reports"),
    ]  # fmt: skip
    match = {**date, "subject": "M1", "stream": "starts_at", "value": "1797379200"}
    assert said(match, kind="alert", zone="America/New_York")[0] == ("Date", "15 Dec 2026 19:00:00 EST")


def test_the_details_that_any_area_gives_are_lines_of_the_message():
    data = {"details": [["Amount", "0.5 BTC"], ["Credited", {"at": "2026-11-23T12:00:05+00:00"}]], "deposit_id": 3}
    assert said(data, zone="Europe/London") == [("Amount", "0.5 BTC"), ("Credited", "23 Nov 2026 12:00:05 GMT")]
    assert message(news(data=data)).facts == {"deposit_id": 3}
    assert said() == []


def test_a_zone_that_does_not_exist_is_read_as_utc():
    assert known_zone("Europe/Atlantis") is UTC
    assert known_zone("../../etc/passwd") is UTC
    assert known_zone("") is UTC


@pytest.mark.parametrize(
    "data",
    [
        {**DATA, "rule": {}},
        {**DATA, "rule": {**DATA["rule"], "level": "many"}},
        {"details": [["one"]]},
        {"details": [["at", {"at": "yesterday"}]]},
        {"details": 5},
        {"sections": [{"title": "no lines"}]},
        {"sections": [{"title": "s", "lines": [["BTCUSD", "1", ["x"]]]}]},
        {"sections": [{"title": "s", "lines": [["BTCUSD", "1", ["Infinity", 1]]]}]},
    ],
)
def test_data_that_makes_no_message_is_an_error_and_not_half_a_message(data):
    with pytest.raises((KeyError, ValueError, TypeError)):
        message(news(kind="alert" if "rule" in data else "order", data=data))


def test_many_notifications_are_one_message_with_the_newest_first():
    leader = news("first", "alert", subject="BTCUSD")
    others = [
        news(f"later {n}", "alert", subject=f"S{n % 4}", at=NOW + timedelta(seconds=n))
        for n in range(1, MOST_LINES + 5)
    ]
    made = together(leader, others)
    (section,) = made.sections
    assert made.title == f"{MOST_LINES + 5} alerts: S0, S3, S2 …"
    assert section.lines[0].value == f"later {MOST_LINES + 4}"
    assert (len(section.lines), section.more) == (MOST_LINES, 5)


@pytest.mark.parametrize(
    ("kind", "many"), [("alert", "alerts"), ("news", "news"), ("match", "matches"), ("system", "messages")]
)
def test_many_notifications_are_counted_in_the_words_of_their_kind(kind, many):
    assert together(news(kind=kind), [news(kind=kind)]).title == f"2 {many}"


def test_a_line_break_in_any_text_makes_no_second_line():
    assert inert("up\r\nBcc: eve@example.com\n\tx\0y\u2028z") == "up Bcc: eve@example.com x y z"
    assert message(news("a\nb", data={"details": [["l\r\nX: 1", "v\n"]]})).lines[0].label == "l X: 1"


def test_text_that_runs_to_the_left_keeps_to_itself_and_turns_nothing_else_round():
    assert inert("ארבע") == "\u2068ארבע\u2069"
    assert inert("safe \u202egnp.exe") == "safe gnp.exe"
    assert inert("a\u061cb") == "a b"
    assert inert("plain") == "plain"


@given(st.text(max_size=2000))
def test_no_text_leaves_its_line_or_changes_the_direction_of_another(text):
    made = inert(text)
    assert len(made) <= LONGEST_TEXT + 2
    assert made.splitlines() in ([], [made])
    assert made.count("\u2068") == made.count("\u2069") <= 1
    assert not set(made) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\r\n\0")
