"""The expiry job: the matching engine lets go first, and only then the money is given back."""

import dataclasses
from decimal import Decimal

import pytest

import config
import db
from demo.server import running
from demo.worlds.orders import Book, Resting
from jobs import orders as job
from jobs.orders import expire_orders
from models import orders
from models.ledger import problems
from tests.exchange import NOW, RICH, fill, has, open_market, place, row


@pytest.fixture(scope="module")
def world():
    with running(seed=3) as demo:
        yield demo


@pytest.fixture
def engine(database, redis, world, monkeypatch):
    """A matching engine that the job asks; `engine.place(…)` places an order there too."""
    open_market()
    book = world.world.part(Book)
    book.__init__()
    world.faults.clear()
    world.requests.clear()
    world.apis["engine"].forgotten.clear()
    settings = dataclasses.replace(
        config.settings, matching_engine_url=world.environment["MATCHING_ENGINE_URL"], matching_engine_token="secret"
    )
    monkeypatch.setattr(config, "settings", settings)
    world.book = book
    return world


def run() -> dict[str, int]:
    """A run at a moment when whatever was put off is to be asked for again."""
    db.rows("update trade_order set ask_at = now() where status = 'expiring'")
    counts = expire_orders(due_at=NOW)
    return {name: count for name, count in counts.items() if name != "told"}


def submit(engine, order_id: int, side: str, quantity: str, price: str) -> list:
    return engine.book.submit(Resting(order_id, ord(side[0]), "BTCUSD", side, Decimal(price), Decimal(quantity)))


def told() -> list[tuple]:
    return db.rows("select topic, payload ->> 'reason' from event order by id")


def test_the_engine_lets_go_and_then_the_order_expires_with_its_money(engine):
    buy, stays = place("ann", "buy", 1, 100), place("ann", "buy", 1, 100, due=1)
    assert run() == {"begun": 1, "expired": 1, "waiting": 0}
    assert (row(buy)[0], row(stays)[0]) == ("expired", "open")
    assert has("ann", "USD") == (RICH - 100, 100)
    assert engine.book.removed == {buy}
    assert [topic for topic, _ in told()] == ["order.expired", "balance.unlocked"]
    assert run() == {"begun": 0, "expired": 0, "waiting": 0}
    assert engine.requests["engine"] == 1


def test_an_engine_that_is_away_leaves_orders_expiring_with_their_money_locked_and_says_so_once(engine):
    buy = place("ann", "buy", 1, 100)
    engine.faults.add("engine", 503)
    assert run() == {"begun": 1, "expired": 0, "waiting": 1}
    assert run() == {"begun": 0, "expired": 0, "waiting": 1}
    assert row(buy)[0] == "expiring"
    assert has("ann", "USD") == (RICH - 100, 100)
    ((topic, reason),) = told()
    assert topic == "orders.stuck"
    assert "/orders/remove: 503" in reason
    assert "secret" not in reason
    (aged,) = orders.freshness(NOW)
    assert aged["name"] == "orders that are expiring"
    engine.faults.clear()
    assert run() == {"begun": 0, "expired": 1, "waiting": 0}
    assert has("ann", "USD") == (RICH, 0)


@pytest.mark.parametrize("fault", ["garbage", "html", "empty", "reset", "truncated", "redirect"])
def test_an_engine_that_talks_nonsense_frees_nothing(engine, fault):
    buy = place("ann", "buy", 1, 100)
    engine.faults.add("engine", fault)
    assert run() == {"begun": 1, "expired": 0, "waiting": 1}
    assert row(buy)[0] == "expiring"
    assert [topic for topic, _ in told()] == ["orders.stuck"]


def test_what_the_engine_has_filled_before_it_let_go_is_waited_for(engine):
    buy, sell = place("ann", "buy", 1, 100), place("bob", "sell", "0.4", 100, due=None)
    submit(engine, buy, "buy", "1", "100")
    (trade,) = submit(engine, sell, "sell", "0.4", "100")
    assert run() == {"begun": 1, "expired": 0, "waiting": 1}
    assert told() == []
    db.rows("update trade_order set expiring_since = now() - interval '61 s' where status = 'expiring'")
    assert run()["waiting"] == 1
    assert told() == [("orders.stuck", "its last fills have not come")]
    assert fill(trade.id, trade.buy_id, trade.sell_id, trade.quantity, trade.price)
    assert run()["expired"] == 1
    assert row(buy) == ("expired", Decimal("0.4"))
    assert has("ann", "USD") == (RICH - 40, 0)
    assert problems() == []


def test_one_order_that_the_engine_does_not_know_costs_only_itself(engine):
    strange, other = place("ann", "buy", 1, 100), place("ann", "buy", 1, 100)
    engine.apis["engine"].forgotten.add(strange)
    assert run() == {"begun": 2, "expired": 1, "waiting": 1}
    assert (row(strange)[0], row(other)[0]) == ("expiring", "expired")
    assert [order["trouble"] for order in orders.expiring()] == ["the engine does not know it"]


def test_an_engine_that_knows_of_fewer_fills_than_we_is_not_believed(engine):
    buy, sell = place("ann", "buy", 1, 100), place("bob", "sell", "0.4", 100, due=None)
    fill(1, buy, sell, "0.4", 100)
    assert run()["waiting"] == 1
    assert [order["trouble"] for order in orders.expiring()] == ["the engine knows of fewer fills than we do"]


def test_many_are_asked_for_in_pages(engine, monkeypatch):
    monkeypatch.setattr(job.engine, "MOST_ORDERS", 2)
    made = [place("ann", "buy", 1, 100) for _ in range(5)]
    assert run() == {"begun": 5, "expired": 5, "waiting": 0}
    assert engine.requests["engine"] == 3
    assert engine.book.removed == set(made)


def test_without_an_engine_orders_expire_in_one_step(engine, monkeypatch):
    monkeypatch.setattr(config, "settings", dataclasses.replace(config.settings, matching_engine_url=""))
    buy = place("ann", "buy", 1, 100)
    assert run() == {"expired": 1}
    assert row(buy)[0] == "expired"
    assert engine.requests["engine"] == 0


def test_a_run_that_died_anywhere_is_taken_up_by_the_next(engine, monkeypatch):
    made = [place("ann", "buy", 1, 100) for _ in range(3)]
    real = orders.finish
    for step in ("begin", "to_ask", "finish", "put_off"):
        with monkeypatch.context() as patch:
            patch.setattr(orders, step, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                expire_orders(due_at=NOW)
    assert orders.finish is real
    run()
    assert [row(order_id)[0] for order_id in made] == ["expired"] * 3
    assert db.rows("select count(*) from event where topic = 'balance.unlocked'") == [(3,)]
    assert problems() == []
