"""Orders: held for, filled, cancelled and expired, to the unit; whoever gets the row in time decides."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peewee import IntegrityError, PeeweeException

import db
from cli.migrate import grant
from domain.orders import reserve
from models import orders
from models.alerts import user_with
from models.ledger import problems
from tests.exchange import NOW, RICH, fill, has, held, open_market, place, row


@pytest.fixture(autouse=True)
def market(database):
    open_market()


def expire(now: datetime = NOW) -> int:
    return sum(orders.expire(now))


def test_an_order_is_placed_with_its_money_or_not_at_all(database):
    place("ann", "buy", "0.3", "100.01", fee="0.001")
    assert has("ann", "USD") == (RICH - Decimal("30.05"), Decimal("30.05"))
    place("ann", "sell", "0.00000001", "100")
    assert has("ann", "BTC")[1] == Decimal("0.00000001")
    with pytest.raises(IntegrityError, match="account_not_overdrawn"):
        place("ann", "buy", 10_000, 100)
    assert db.rows("select count(*) from trade_order") == [(2,)]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (("buy", "1", "100.001"), "the price is no multiple of 0.01"),
        (("buy", "0.000000001", "100"), "the quantity is no multiple of 0.00000001"),
        (("buy", "0", "100"), "trade_order_quantity_check"),
        (("sell", "-1", "100"), "trade_order_quantity_check"),
        (("sell", "NaN", "100"), "to sell NaN BTCUSD at 100: the quantity is no multiple of 0.00000001"),
        (("sell", "1", "NaN"), "the price is no multiple of 0.01"),
        (("hold", "1", "100"), "trade_order_side_check"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused_with_the_reason(database, values, reason):
    with pytest.raises(IntegrityError, match=reason):
        place("ann", *values)
    assert has("ann", "USD") == (RICH, 0)


def test_a_user_without_an_account_and_a_pair_that_is_not_traded_are_refused(database):
    with pytest.raises(IntegrityError, match="has no account in what it costs"):
        place("eve", "buy", 1, 100)
    db.rows("update pair set active = false")
    with pytest.raises(IntegrityError, match="the pair is not traded"):
        place("ann", "buy", 1, 100)


@pytest.mark.parametrize("instant", ["infinity", "-infinity", "4000-01-01 00:00Z BC", "3000-01-01 00:00Z"])
def test_an_order_ends_at_an_instant_or_not_at_all(database, instant):
    with pytest.raises(IntegrityError, match="trade_order_expires_at_check"):
        db.rows(
            """insert into trade_order (user_id, pair, side, quantity, price, time_in_force, expires_at)
               values (%s, 'BTCUSD', 'buy', 1, 100, 'GTD', %s)""",
            *(user_with("ann@example.com"), instant),
        )


def test_an_order_placed_again_under_the_same_name_is_refused(database):
    statement = """insert into trade_order (external_id, user_id, pair, side, quantity, price)
                   values ('a-1', %s, 'BTCUSD', 'buy', 1, 100)"""
    db.rows(statement, user_with("ann@example.com"))
    with pytest.raises(IntegrityError, match="trade_order_once"):
        db.rows(statement, user_with("ann@example.com"))
    db.rows(statement, user_with("bob@example.com"))


def test_a_day_order_ends_with_the_session_of_its_market(database):
    db.rows("update pair set market = 'XNYS'")
    statement = """insert into trade_order (user_id, pair, side, quantity, price, time_in_force)
                   values (%s, 'BTCUSD', 'buy', 1, 100, 'DAY') returning expires_at"""
    with pytest.raises(IntegrityError, match="no coming session of XNYS is known: give expires_at"):
        db.rows(statement, user_with("ann@example.com"))
    opens = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=3)
    for day in (0, 1):
        at = opens + timedelta(days=day)
        db.rows(
            """insert into market_session (market, date, opens_at, closes_at, source)
               values ('XNYS', %s, %s, %s, 'rule')""",
            *(at.date(), at, at + timedelta(hours=6)),
        )
    assert db.rows(statement, user_with("ann@example.com")) == [(opens + timedelta(hours=6),)]


def test_a_fill_pays_both_sides_and_frees_what_a_better_price_saved(database):
    buy, sell = place("ann", "buy", "0.5", "100", fee="0.01"), place("bob", "sell", "0.2", "90", fee="0.005")
    assert has("ann", "USD")[1] == Decimal("50.50")
    assert fill(1, buy, sell, "0.2", "95")  # costs 19.00, fees 0.19 and 0.09
    assert row(buy) == ("open", Decimal("0.2"))
    assert row(sell) == ("filled", Decimal("0.2"))
    assert held(buy) == (Decimal("50.50"), Decimal("19.19"), Decimal("30.30"))
    assert held(sell) == (Decimal("0.2"), Decimal("0.2"), 0)
    assert has("ann", "USD") == (RICH - Decimal("19.19") - Decimal("30.30"), Decimal("30.30"))
    assert has("ann", "BTC")[0] == RICH + Decimal("0.2")
    assert has("bob", "USD")[0] == RICH + Decimal("18.91")
    assert db.rows("select balance from account where name = 'fees'") == [(Decimal("0.28"),)]
    assert problems() == []


def test_a_fill_again_is_nothing_even_when_the_orders_have_ended(database):
    buy, sell = place("ann", "buy", 1, 100), place("bob", "sell", 1, 100)
    assert fill(1, buy, sell, "0.4", 100)
    assert fill(1, buy, sell, "0.4", 100)
    assert row(buy) == ("open", Decimal("0.4"))
    assert expire() == 2
    assert fill(1, buy, sell, "0.4", 100)
    with pytest.raises(IntegrityError, match="trade 1, leg 0: is posted already"):
        fill(1, buy, sell, "0.3", 100)
    assert not fill(2, buy, sell, "0.1", 100)
    assert problems() == []


@pytest.mark.parametrize(
    ("trade", "reason"),
    [
        ((1, 0, 1, 1, "90"), "90 is not within the limits"),
        ((1, 0, 1, 1, "101"), "101 is not within the limits"),
        ((1, 0, 1, "1.1", "100"), "trade_order_|account_locked_check"),
        ((1, 0, 1, "0", "100"), "0 at 100 cannot be paid in units of USD"),
        ((1, 0, 1, "-1", "100"), "-1 at 100 cannot be paid in units of USD"),
        ((1, 0, 1, "NaN", "100"), "NaN is no amount of"),
        ((1, 0, 1, "0.00000001", "100"), "cannot be paid in units of USD"),
        ((1, 1, 0, 1, "100"), "it is not between a buying and a selling order of one pair"),
        ((1, 0, 99, 1, "100"), "it is not between a buying and a selling order of one pair"),
    ],
)
def test_a_fill_that_no_engine_may_make_is_refused(database, trade, reason):
    made = [place("ann", "buy", 1, 100), place("bob", "sell", 1, 95)]
    number, buy, sell, quantity, price = trade
    with pytest.raises(IntegrityError, match=reason):
        fill(number, *(made[n] if n < 2 else 999_999 for n in (buy, sell)), quantity, price)
    assert [row(order_id) for order_id in made] == [("open", 0), ("open", 0)]
    assert problems() == []


def test_nobody_trades_with_himself(database):
    buy, sell = place("ann", "buy", 1, 100), place("ann", "sell", 1, 95)
    with pytest.raises(IntegrityError, match="trade 1: both orders are one user's"):
        fill(1, buy, sell, 1, 100)


def test_fills_of_one_call_add_up_and_one_that_comes_too_late_is_left_out(database):
    buy, late = place("ann", "buy", 3, 100, due=None), place("ann", "buy", 1, 100)
    sells = [place("bob", "sell", 1, 100, due=None) for _ in range(3)]
    assert expire() == 1
    values = [(1, buy, sells[0]), (2, buy, sells[1]), (3, late, sells[2])]
    done = db.rows(
        "select fill_orders(array(select (t, b, s, 1, 100)::fill from unnest(%s, %s, %s) as f(t, b, s))) order by 1",
        *map(list, zip(*values, strict=True)),
    )
    assert done == [(1,), (2,)]
    assert row(buy) == ("open", 2)
    assert row(sells[2]) == ("open", 0)
    assert problems() == []


def test_an_order_whose_time_has_passed_expires_and_the_others_stay(database):
    due = [place("ann", "buy", 2, 100, fee="0.001", due=-1), place("bob", "sell", 3, 200, due=0)]
    stays = [place("ann", "buy", 1, 100, due=1), place("ann", "buy", 1, 100, due=None)]
    assert expire() == 2
    assert [row(order_id)[0] for order_id in due + stays] == ["expired", "expired", "open", "open"]
    assert has("ann", "USD") == (RICH - 200, 200)
    assert has("bob", "BTC") == (RICH, 0)
    assert held(due[0]) == (Decimal("200.20"), 0, 0)
    assert problems() == []


def test_an_expiry_is_told_in_two_events(database):
    buy, sell = place("ann", "buy", 2, 100, fee="0.001", due=0), place("bob", "sell", "0.5", 100, due=None)
    fill(1, buy, sell, "0.5", 100)
    expire()
    told = db.rows("select topic, user_id, payload from event order by topic")
    ann = user_with("ann@example.com")
    assert [(topic, user) for topic, user, _ in told] == [("balance.unlocked", ann), ("order.expired", ann)]
    assert told[0][2] == {"order_id": buy, "asset": "USD", "amount": "150.15"}
    assert told[1][2] == {"order_id": buy, "pair": "BTCUSD", "side": "buy", "quantity": "2", "filled": "0.5"}


def test_users_are_told_once_however_many_of_their_orders_have_expired(database):
    for _ in range(4):
        place("ann", "buy", 2, 100)
    place("bob", "sell", 3, 200)
    assert (expire(), list(orders.tell()), list(orders.tell())) == (5, [2], [])
    place("bob", "sell", "0.5", 200)
    assert (expire(), list(orders.tell())) == (1, [1])
    assert db.rows("select user_id, kind, subject, title from notification order by id") == [
        (user_with("ann@example.com"), "order", "BTCUSD", "4 of your orders have expired"),
        (user_with("bob@example.com"), "order", "BTCUSD", "Your order to sell 3 BTCUSD has expired, 0 filled"),
        (user_with("bob@example.com"), "order", "BTCUSD", "Your order to sell 0.5 BTCUSD has expired, 0 filled"),
    ]


def test_twice_is_the_same_as_once(database):
    place("ann", "buy", 2, 100)
    assert (expire(), expire()) == (1, 0)
    assert db.rows("select count(*) from event") == [(2,)]
    assert has("ann", "USD") == (RICH, 0)


def test_a_position_of_another_database_is_refused_and_nobody_is_told(database):
    list(orders.tell())
    db.rows("update reader_position set xid = '4000000000' where reader = %s", orders.READER)
    with pytest.raises(LookupError, match="of another cluster"):
        list(orders.tell())


def test_the_oldest_go_first_in_batches(database, monkeypatch):
    monkeypatch.setattr(orders, "BATCH", 3)
    made = [place("ann", "buy", 1, 100, due=-n) for n in range(7)]
    ends = []
    for count in orders.expire(NOW):
        ends.append((count, [row(order_id)[0] for order_id in reversed(made)].count("expired")))
        assert [row(order_id)[0] for order_id in reversed(made)][: ends[-1][1]] == ["expired"] * ends[-1][1]
    assert ends == [(3, 3), (3, 6), (1, 7)]


def test_the_end_of_orders_costs_as_much_as_they_are_however_few_the_planner_expects(database):
    db.rows("analyze trade_order")  # it expects none at all
    plan = "\n".join(line for (line,) in db.rows(f"explain {orders._EXPIRE}", NOW, orders.BATCH))
    published = plan[plan.index("CTE published") :]
    assert published.count("hashed SubPlan") == 1
    assert published.count("CTE Scan on ended") == 2  # hashed, and counted at the end: joined with nothing


def test_a_cancelled_order_gives_back_what_it_holds_once(database):
    buy = place("ann", "buy", 2, 100)
    assert db.rows("select cancel_orders(array[%s, 99999])", buy) == [(buy,)]
    assert db.rows("select cancel_orders(array[%s])", buy) == [(buy,)]
    assert held(buy) == (200, 0, 0)
    assert (row(buy)[0], expire(), has("ann", "USD")) == ("cancelled", 0, (RICH, 0))
    late = place("ann", "buy", 2, 100)
    expire()
    assert db.rows("select cancel_orders(array[%s])", late) == []


def test_money_that_comes_back_repays_what_is_owed(database):
    ann = user_with("ann@example.com")
    place("ann", "buy", 2, 100)
    ((credited,),) = db.rows(
        "select id from transfer where credit_id = (select id from account where user_id = %s and asset = 'USD')", ann
    )
    db.rows("select reverse_transfers(array[%s])", credited)
    assert db.rows("select available, locked, owed from account where user_id = %s and asset = 'USD'", ann) == [
        (0, 200, 200)
    ]
    expire()
    assert db.rows("select available, locked, owed from account where user_id = %s and asset = 'USD'", ann) == [
        (0, 0, 0)
    ]
    assert problems() == []


def test_an_order_that_is_expiring_can_still_be_filled_and_ends_when_all_agree(database):
    buy, sell = place("ann", "buy", 1, 100), place("bob", "sell", 1, 100, due=None)
    assert sum(orders.begin(NOW)) == 1
    assert has("ann", "USD") == (RICH - 100, 100)
    assert db.rows("select cancel_orders(array[%s])", buy) == []
    assert orders.finish({buy: Decimal("0.3")}) == 0  # its fills are not here yet
    assert fill(1, buy, sell, "0.3", 100)
    assert orders.finish({buy: Decimal("0.3"), sell: Decimal("0.3")}) == 1
    assert (row(buy), row(sell)) == (("expired", Decimal("0.3")), ("open", Decimal("0.3")))
    assert not fill(2, buy, sell, "0.1", 100)
    assert held(buy) == (100, 30, 0)
    assert problems() == []


def test_an_order_that_is_expiring_and_is_filled_whole_is_filled(database):
    buy, sell = place("ann", "buy", 1, 100), place("bob", "sell", 1, 100)
    sum(orders.begin(NOW))
    orders.put_off({buy: "the engine said nothing of it"}, timedelta(0))
    assert fill(1, buy, sell, 1, 100)
    assert orders.finish({buy: Decimal(1), sell: Decimal(1)}) == 0
    assert [row(order_id)[0] for order_id in (buy, sell)] == ["filled", "filled"]
    assert problems() == []


def test_reasons_are_noted_and_only_new_ones_are_told(database):
    made = [place("ann", "buy", 1, 100) for _ in range(3)]
    sum(orders.begin(NOW))
    assert [order["id"] for order in orders.to_ask(10)] == made
    assert orders.put_off({made[0]: "away", made[1]: None}, timedelta(hours=1)) == {"away"}
    assert orders.put_off({made[0]: "away", made[2]: "away"}, timedelta(hours=1)) == set()
    assert orders.to_ask(10) == []
    assert [(order["held"], order["trouble"]) for order in orders.expiring()] == [
        (100, "away"), (100, None), (100, "away"),
    ]  # fmt: skip


def test_the_app_places_fills_and_cancels_by_the_contract_alone(database):
    grant()
    with db.transaction():
        db.rows("set local role nightdesk_app")
        buy, sell = place("ann", "buy", 1, 100, due=None), place("bob", "sell", 1, 100)
        assert fill(1, buy, sell, "0.4", 100)
        assert db.rows("select cancel_orders(array[%s])", buy) == [(buy,)]
        for statement in ("update trade_order set status = 'expired'", "delete from trade_order",
                          "insert into trade_order (status) values ('open')"):  # fmt: skip
            with pytest.raises(PeeweeException, match="permission denied"), db.transaction():
                db.rows(statement)
    assert problems() == []


def test_fills_expiries_and_cancels_at_once_end_each_order_once(database):  # noqa: C901
    buys = [place("ann", "buy", 2, 100, fee="0.001", due=n % 3) for n in range(90)]
    sells = [place("bob", "sell", 2, 100, due=None) for _ in range(90)]
    errors: list[Exception] = []

    def run(task, seed: int) -> None:
        with db.database.connection_context():
            try:
                task(Random(seed))
            except PeeweeException as error:
                errors.append(error)

    def match(dice: Random) -> None:
        for n in dice.sample(range(90), 90):
            fill(n * 10 + dice.randint(0, 1), buys[n], sells[(n * 7) % 90], "0.5", 100)

    def end(dice: Random) -> None:
        for second in (0, 1, 2):
            expire(NOW + timedelta(seconds=second))

    def cancel(dice: Random) -> None:
        for n in dice.sample(range(90), 30):
            db.rows("select cancel_orders(array[%s, %s])", *dice.sample([buys[n], buys[(n + 1) % 90]], 2))

    threads = [Thread(target=run, args=args) for args in ((match, 1), (match, 2), (end, 3), (cancel, 4))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    end(Random())  # what was locked when its turn came
    assert errors == []
    assert problems() == []
    ends = Counter(row(order_id)[0] for order_id in buys)
    assert set(ends) <= {"expired", "cancelled", "filled"}
    assert db.rows(
        "select count(*), count(distinct payload -> 'order_id') from event where topic = 'order.expired'"
    ) == [(ends["expired"], ends["expired"])]
    assert has("ann", "USD")[1] == 0


# A law: whatever the order and its fills, it holds what the rest of it needs, and at its end its user has back all that
# its fills did not take.

PARTS = st.lists(st.tuples(st.integers(1, 10**9), st.integers(0, 2_000)), max_size=5)


@settings(max_examples=60)
@given(
    quantity=st.integers(10**7, 10**10),
    price=st.integers(1, 9 * 10**5),
    fees=st.tuples(st.integers(0, 10**4), st.integers(0, 10**4)),
    parts=PARTS,
)
def test_an_order_holds_what_the_rest_of_it_needs_and_gives_back_what_was_not_paid(
    database, quantity, price, fees, parts
):
    whole, limit = Decimal(quantity).scaleb(-8), Decimal(price).scaleb(-2)
    rates = [Decimal(fee).scaleb(-6) for fee in fees]
    with db.transaction():
        before = has("ann", "USD")
        buy = place("ann", "buy", whole, limit, fee=str(rates[0]))
        sell = place("bob", "sell", whole, "0.01", fee=str(rates[1]), due=None)
        filled = Decimal(0)
        for number, (part, cheaper) in enumerate(parts):
            much = min(Decimal(part).scaleb(-8), whole - filled)
            at = max(limit - Decimal(cheaper).scaleb(-2), Decimal("0.01"))
            if much and much * at >= Decimal("0.01"):
                assert fill(number, buy, sell, much, at)
                filled += much
            assert held(buy)[2] == reserve("buy", whole - filled, limit, rates[0], 2)
        assert expire() == (1 if filled < whole else 0)
        _, paid, left = held(buy)
        assert left == 0
        assert has("ann", "USD") == (before[0] - paid, before[1])
        assert problems() == []
        db.database.rollback()


@given(x=st.decimals(0, 10**12, places=24, allow_nan=False), scale=st.integers(0, 30), rate=st.integers(0, 10**6))
@settings(max_examples=60)
def test_the_database_reserves_what_plain_code_does(database, x, scale, rate):
    fee = Decimal(rate).scaleb(-7)
    ((found,),) = db.rows("select order_reserve('buy', %s, 1.37, %s, %s)", x, fee, scale)
    assert found == reserve("buy", x, Decimal("1.37"), fee, scale)
