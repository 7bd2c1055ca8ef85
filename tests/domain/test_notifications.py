"""What a message says, and when it is tried again."""

from datetime import UTC, datetime, timedelta

import pytest

from domain.failures import Rejected, Unavailable
from domain.notifications import MAX_TRIES, known_zone, message, rest, wait

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DATA = {
    "alert_id": 12, "subject": "BTCUSD", "stream": "price", "value": "97012.5", "touches": 0,
    "previous": "96990", "source": "binance",
    "happened_at": "2026-11-23T12:00:05+00:00", "received_at": "2026-11-23T12:00:06+00:00",
    "rule": {"condition": "crosses", "level": "97000", "direction": "up"},
}  # fmt: skip


def test_a_message_tells_price_rule_and_times_in_the_users_zone():
    made = message("key", "alert", "BTCUSD crossed 97000 upwards, at 97012.5", DATA, NOW, "Asia/Bangkok")
    assert made.subject == "BTCUSD crossed 97000 upwards, at 97012.5"
    assert made.text.splitlines() == [
        "BTCUSD crossed 97000 upwards, at 97012.5.",
        "",
        "Price: 97012.5 from binance, before it 96990",
        "Time: 23 Nov 2026 19:00:05 +07, known here 1 s later",
        "Alert 12: BTCUSD crosses 97000, up",
    ]


def test_the_details_that_any_area_gives_are_lines_of_the_message():
    data = {"details": [["Amount", "0.5 BTC"], ["Credited", {"at": "2026-11-23T12:00:05+00:00"}]], "deposit_id": 3}
    made = message("key", "deposit", "0.5 BTC are credited", data, NOW, "Europe/London")
    assert made.text.splitlines()[2:] == ["Amount: 0.5 BTC", "Credited: 23 Nov 2026 12:00:05 GMT"]
    assert message("key", "system", "Hello", {}, NOW, "UTC").text == "Hello.\n"


def test_a_zone_that_does_not_exist_is_read_as_utc():
    assert known_zone("Europe/Atlantis") is UTC
    assert known_zone("../../etc/passwd") is UTC
    assert known_zone("") is UTC


def test_data_that_makes_no_message_is_an_error_and_not_half_a_message():
    with pytest.raises(KeyError):
        message("key", "alert", "title", {**DATA, "rule": {}}, NOW, "UTC")


def test_waits_grow_from_a_quarter_minute_to_an_hour_and_end():
    waits = [wait(tries, None, 0.5) for tries in range(1, MAX_TRIES + 1)]
    assert [w and w.total_seconds() for w in waits] == [15, 60, 240, 960, 3840, None]


def test_waits_are_spread_by_a_fifth_and_never_shorter_than_the_server_asks():
    assert wait(1, None, 0.0) == timedelta(seconds=12)
    assert wait(1, None, 1.0) == timedelta(seconds=18)
    assert wait(1, 120, 0.5) == timedelta(seconds=120)
    assert wait(1, 1e9, 0.5) == timedelta(hours=6)


def test_a_channel_rests_ever_longer_over_an_outage_and_five_minutes_after_a_refusal():
    outage = Unavailable("smtp: no connection")
    assert [rest(n, outage).total_seconds() for n in (0, 1, 2, 5, 6, 99)] == [5, 10, 20, 160, 300, 300]
    assert rest(0, Rejected("login: 535")) == timedelta(minutes=5)
    assert rest(0, Unavailable("421", 60)) == timedelta(seconds=60)
