"""The demo's traders: they trade by the contract alone, and everything adds up."""

import threading

import pytest

import db
from demo.traders import Traders
from demo.world import Clock, World
from demo.worlds.orders import Book, Resting
from models import ledger, orders
from tests.exchange import NOW
from tests.waiting import until


@pytest.fixture
def traders(database):
    from cli.migrate import grant

    grant()
    return Traders(World(Clock(NOW.timestamp(), NOW.timestamp()), seed=2), seed=2)


def test_its_users_place_fill_and_cancel_orders_and_some_of_them_expire(traders):
    traders._begin()
    for _ in range(150):
        traders._step()
    db.rows("reset role")
    states = dict(db.rows("select status, count(*) from trade_order group by 1"))
    assert states.keys() >= {"open", "filled", "cancelled"}
    assert db.rows("select count(*) > 10 from transfer where cause = 'trade'") == [(True,)]
    ((last,),) = db.rows("select max(expires_at) from trade_order")
    assert sum(orders.expire(last)) > 10
    assert ledger.problems() == []


def test_it_begins_again_with_what_is_open(traders):
    traders._begin()
    for _ in range(30):
        traders._step()
    open_orders = set(traders.book.open)
    again = Traders(World(traders.world.clock, seed=2), seed=3)
    db.rows("reset role")
    again._begin()
    assert again.book.open == open_orders
    db.rows("reset role")
    assert db.rows("select count(*) from transfer where cause = 'operator'") == [(36,)]


def test_it_runs_until_it_is_stopped(traders):
    stop = threading.Event()
    thread = threading.Thread(target=traders.run, args=[stop])
    thread.start()
    until(lambda: db.rows("select 1 from trade_order limit 1"))
    assert thread.is_alive()
    stop.set()
    thread.join(60)
    assert not thread.is_alive()


def test_the_book_matches_the_best_price_first_and_never_what_was_removed():
    book = Book()
    for number, price in ((1, 101), (2, 100), (3, 100)):
        assert book.submit(Resting(number, 1, "BTCUSD", "sell", price, 5)) == []
    assert book.remove(3) == 0
    trades = book.submit(Resting(4, 2, "BTCUSD", "buy", 101, 7))
    assert [(t.buy_id, t.sell_id, t.quantity, t.price) for t in trades] == [(4, 2, 5, 100), (4, 1, 2, 101)]
    assert (book.remove(1), book.remove(4), book.remove(9)) == (2, 7, 0)
    assert book.submit(Resting(9, 2, "BTCUSD", "buy", 101, 1)) == []
    assert book.submit(Resting(5, 2, "ETHUSD", "buy", 200, 1)) == []
    book.submit(Resting(6, 3, "BTCUSD", "sell", 100, 1))
    assert book.submit(Resting(7, 3, "BTCUSD", "buy", 100, 1)) == []
