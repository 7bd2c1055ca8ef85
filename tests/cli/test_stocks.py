"""Stocks from a shell."""

import json

import pytest

import db
from domain.failures import Renamed
from models import portfolios, stocks
from models.alerts import user_with


@pytest.fixture(autouse=True)
def followed(database):
    """A stock that a source has under another name."""
    portfolios.watch(user_with("ann@example.com"), ["FB"])
    stocks.adopt()
    stocks.renamed({"FB": Renamed("yahoo: symbol is 'META', not FB", "yahoo", "META")})


def test_the_list_says_what_to_do_about_a_stock_that_was_renamed(call):
    assert "it is META now" in call("stocks", "list").output
    assert json.loads(call("stocks", "list", "--json").output)[0]["renamed_to"] == "META"


def test_rename_moves_says_what_and_is_in_the_audit(call):
    assert "FB is META now" in call("stocks", "rename", "fb", "meta", "--who", "ann").output
    assert db.rows("select symbol from watchlist_item") == [("META",)]
    assert db.rows("select who, action, target, new ->> 'to' from audit") == [("ann", "stocks rename", "FB", "META")]
    assert "not a stock" in call("stocks", "rename", "FB", "META", code=1).output
    rows = json.loads(call("stocks", "rename", "META", "FB", "--json").output)
    assert rows == [{"what": "watchlist_item", "rows": 1}]


def test_a_name_that_cannot_be_is_refused(call):
    assert "same market" in call("stocks", "rename", "FB", "FB.L", code=1).output
    assert "not a symbol" in call("stocks", "rename", "FB", "a b", code=2).output
    assert db.rows("select count(*) from audit") == [(0,)]
