"""Faults on demand, by Python and over the wire."""

from __future__ import annotations

import http.client
import json
import time
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from tests.waiting import until

PING = "/binance/api/v3/ping"
PRICE = "/binance/api/v3/ticker/price?symbol=BTCUSDT"


def control(ask, **fault):
    return ask("/control/faults", method="POST", body=json.dumps(fault))


def test_a_fault_comes_and_goes_over_the_wire(ask):
    assert control(ask, api="binance", fault="500").status == 201
    assert ask(PING).status == 500
    assert [fault["fault"] for fault in ask("/control/faults").body] == ["500"]
    assert ask("/gold-api/symbols").status == 200
    ask("/control/faults?api=binance", method="DELETE")
    assert ask(PING).status == 200


def test_a_fault_ends_by_itself(ask, demo, monkeypatch):
    demo.faults.add("binance", 503, for_s=600)
    assert ask(PING).status == 503
    later = time.time() + 600
    monkeypatch.setattr(time, "time", lambda: later)
    assert ask(PING).status == 200
    assert demo.faults.list() == []


@pytest.mark.parametrize(
    "fault",
    [
        {"api": "binance", "fault": "sulk"},
        {"api": "binance", "fault": "200"},
        {"fault": "500"},
        {"api": "binance", "fault": "500", "y": 1},
        {"api": "binanse", "fault": "500"},
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(ask, fault):
    answer = control(ask, **fault)
    assert answer.status == 422
    assert answer.body["error"]


def test_a_share_of_requests_is_about_that_share(ask, demo):
    demo.faults.add("binance", 500, share=0.3)
    demo.faults._dice.seed(1)  # whatever was asked before
    failed = sum(ask(PING).status == 500 for _ in range(200))
    assert 35 <= failed <= 85


def test_a_fault_of_one_symbol_leaves_the_others_alone(ask, demo):
    demo.faults.add("binance", 500, symbol="ETHUSDT")
    assert ask(PRICE).status == 200
    assert ask(PRICE.replace("BTC", "ETH")).status == 500
    assert ask('/binance/api/v3/ticker/price?symbols=["BTCUSDT","ETHUSDT"]'.replace('"', "%22")).status == 500


def test_a_429_says_when_to_come_back_as_it_was_told(ask, demo):
    demo.faults.add("binance", 429, retry_after="Sun, 22 Nov 2026 12:00:30 GMT")
    assert ask(PING).headers["Retry-After"] == "Sun, 22 Nov 2026 12:00:30 GMT"
    demo.faults.clear()
    demo.faults.add("binance", 429)
    assert ask(PING).headers["Retry-After"] is None


def test_garbage_empty_and_a_page_come_with_200(ask, demo):
    for fault, body in (("garbage", b"\x00\xff"), ("empty", b""), ("html", b"<!doctype")):
        demo.faults.clear()
        demo.faults.add("binance", fault)
        answer = ask(PING)
        assert answer.status == 200
        assert answer.body.startswith(body)


def test_a_reset_and_a_cut_answer_are_errors_of_the_connection(ask, demo):
    demo.faults.add("binance", "reset")
    with pytest.raises(OSError):  # noqa: PT011 - ConnectionResetError, or RemoteDisconnected
        ask(PING)
    demo.faults.clear()
    demo.faults.add("binance", "truncated")
    with pytest.raises(http.client.IncompleteRead):
        ask(PRICE)


def test_a_slow_answer_is_the_right_one_only_later(ask, demo):
    demo.faults.add("binance", "slow", seconds=0.3)
    began = time.monotonic()
    assert ask(PRICE).body["symbol"] == "BTCUSDT"
    assert time.monotonic() - began >= 0.3


def test_frozen_data_stand_still(ask, demo):
    fault = demo.faults.add("binance", "frozen")
    one = ask("/binance/api/v3/ticker/24hr?symbol=BTCUSDT&type=MINI").body
    until(lambda: time.time() > fault.since + 0.002)  # its times are in milliseconds
    assert ask("/binance/api/v3/ticker/24hr?symbol=BTCUSDT&type=MINI").body == one
    demo.faults.clear()
    assert ask("/binance/api/v3/ticker/24hr?symbol=BTCUSDT&type=MINI").body != one


def test_a_flood_is_100_megabytes(demo):
    demo.faults.add("binance", "flood")
    with urlopen(demo.url + PING) as answer:
        assert answer.headers["Content-Length"] == "100000000"


def test_the_server_counts_what_it_is_asked(ask, demo):
    ask(PRICE)
    counts = ask("/control/requests").body
    assert counts["counts"] == {"binance": 1}
    assert counts["last"][-1] == PRICE


def test_an_unknown_place_lists_the_known_ones(ask):
    answer = ask("/nowhere")
    assert answer.status == 404
    assert "binance" in answer.body["stand_ins"]


def test_many_at_once_are_served(demo):
    connections = [http.client.HTTPConnection("127.0.0.1", urlsplit(demo.url).port, timeout=60) for _ in range(60)]
    for connection in connections:
        connection.request("GET", PRICE)
    assert {connection.getresponse().status for connection in connections} == {200}
    for connection in connections:
        connection.close()
