"""The ledger: whatever is posted, held, paid and taken back, and however often, everything adds up."""

from collections import Counter
from decimal import Decimal
from threading import Barrier, Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peewee import IntegrityError, InternalError, PeeweeException

import db
from cli.migrate import grant
from models import ledger
from models.alerts import user_with
from models.ledger import Posting, account_of, our_account, post, problems, reverse


@pytest.fixture(autouse=True)
def assets(database):
    db.rows("insert into asset (code, scale) values ('USD', 2), ('BTC', 8), ('WEI', 18)")


def user(name: str = "ann") -> int:
    return user_with(f"{name}@example.com")


def credit(cause_id: int, amount: str | int, account: int, name: str = "house", asset: str = "USD") -> list[dict]:
    return post([Posting("deposit", cause_id, 0, our_account(name, asset), account, Decimal(amount))])


def hold(cause_id: int, account: int, amount: str | int) -> None:
    db.rows("select place_holds(array[('withdrawal', %s, %s, %s)::holding])", cause_id, account, Decimal(amount))


def state(account: int) -> tuple[Decimal, Decimal, Decimal]:
    """(available, locked, owed)."""
    ((available, locked, owed),) = db.rows("select available, locked, owed from account where id = %s", account)
    return available, locked, owed


def test_a_transfer_moves_its_amount_from_the_debit_to_the_credit_account(database):
    ann = account_of(user(), "USD")
    (made,) = credit(7, "12.50", ann)
    assert (made["cause"], made["cause_id"], made["asset"], made["amount"]) == ("deposit", 7, "USD", Decimal("12.50"))
    assert state(ann) == (Decimal("12.50"), 0, 0)
    assert db.rows("select balance from account where name = 'house'") == [(Decimal("-12.50"),)]
    assert problems() == []


def test_posting_again_is_nothing_and_with_another_amount_or_account_an_error(database):
    ann, bob = account_of(user(), "USD"), account_of(user("bob"), "USD")
    credit(7, "12.50", ann)
    assert credit(7, "12.50", ann) == []
    for amount, account in (("12.51", ann), ("12.50", bob)):
        with pytest.raises(IntegrityError, match="deposit 7, leg 0: is posted already"):
            credit(7, amount, account)
    with pytest.raises(IntegrityError, match="is posted already"):  # the same cause twice in one call
        post([Posting("deposit", 8, 0, our_account("house", "USD"), account, Decimal(1 + n)) for n in range(2)])
    assert (state(ann), state(bob)) == ((Decimal("12.50"), 0, 0), (0, 0, 0))


def test_a_set_is_posted_whole_or_not_at_all(database):
    ann, house = account_of(user(), "USD"), our_account("house", "USD")
    good = [Posting("deposit", n, 0, house, ann, Decimal(n)) for n in range(1, 4)]
    with pytest.raises(IntegrityError, match="deposit 4, leg 0: no account 999999"):
        post([*good, Posting("deposit", 4, 0, house, 999999, Decimal(4))])
    assert db.rows("select count(*) from transfer") == [(0,)]
    assert [t["cause_id"] for t in post(good)] == [1, 2, 3]
    assert [t["cause_id"] for t in post([*good, Posting("deposit", 4, 0, house, ann, Decimal(4))])] == [4]
    assert state(ann) == (10, 0, 0)


@pytest.mark.parametrize(
    ("amount", "reason"),
    [
        ("0", "transfer_amount_check"),
        ("-1", "transfer_amount_check"),
        ("0.001", "0.001 is no amount of USD"),
        ("NaN", "NaN is no amount of USD"),
        ("Infinity", "Infinity is no amount of USD"),
        ("1e78", "transfer_amount_check"),
    ],
)
def test_what_is_no_amount_of_its_asset_is_refused(database, amount, reason):
    with pytest.raises(IntegrityError, match=reason):
        credit(1, amount, account_of(user(), "USD"))
    assert problems() == []


def test_the_largest_amounts_are_exact_to_the_smallest_unit(database):
    ann = account_of(user(), "WEI")
    whole = Decimal(f"{2**256 - 1}e-18")
    credit(1, whole, ann, asset="WEI"), credit(2, "0.000000000000000001", ann, asset="WEI")
    assert state(ann)[0] == Decimal(f"{2**256}e-18")
    assert problems() == []


def test_money_stays_in_its_asset_and_goes_somewhere(database):
    ann, coins = account_of(user(), "USD"), account_of(user(), "BTC")
    credit(1, 5, ann)
    with pytest.raises(IntegrityError, match="from USD to BTC is no transfer"):
        post([Posting("trade", 1, 0, ann, coins, Decimal(1))])
    with pytest.raises(IntegrityError, match="transfer_moves"):
        post([Posting("trade", 1, 0, ann, ann, Decimal(1))])


def test_nobody_spends_more_than_is_available(database):
    ann, house = account_of(user(), "USD"), our_account("house", "USD")
    credit(1, 10, ann)
    hold(1, ann, 4)
    with pytest.raises(IntegrityError, match="account_not_overdrawn"):
        post([Posting("settlement", 1, 0, ann, house, Decimal("6.01"))])
    with pytest.raises(IntegrityError, match="account_not_overdrawn"):
        hold(2, ann, "6.01")
    post([Posting("settlement", 1, 0, ann, house, Decimal(6))])
    assert state(ann) == (0, 4, 0)


def test_a_transfer_is_never_changed_and_an_account_never_dropped(database):
    credit(1, 10, account_of(user(), "USD"))
    for statement in ("update transfer set amount = 11", "delete from transfer", "truncate transfer",
                      "delete from account", "update account set asset = 'BTC'"):  # fmt: skip
        with pytest.raises(InternalError, match="corrections are reversals"):
            db.rows(statement)
    with pytest.raises(IntegrityError, match="app_user"):
        db.rows("delete from app_user")


def test_a_reversal_takes_back_once(database):
    ann = account_of(user(), "USD")
    ((first,), (second,)) = [(t["id"],) for n in (1, 2) for t in credit(n, 10, ann)]
    (made,) = reverse([first])
    assert (made["cause"], made["cause_id"], made["amount"]) == ("reversal", first, 10)
    assert reverse([first]) == []
    assert len(reverse([first, second])) == 1
    assert state(ann) == (0, 0, 0)
    with pytest.raises(PeeweeException, match="do not exist"):
        reverse([999999])
    assert problems() == []


def test_what_a_reversal_does_not_find_is_owed_and_repaid_by_whatever_comes_in(database):
    ann = account_of(user(), "USD")
    (made,) = credit(1, 10, ann)
    hold(1, ann, 7)
    reverse([made["id"]])
    assert state(ann) == (0, 7, 7)
    credit(2, 3, ann)
    assert state(ann) == (0, 7, 4)
    with pytest.raises(IntegrityError, match="account_not_overdrawn"):
        post([Posting("settlement", 1, 0, ann, our_account("house", "USD"), Decimal(1))])
    db.rows("select cancel_withdrawal(1)")
    assert state(ann) == (3, 0, 0)
    assert problems() == []


def test_a_credit_and_a_payment_in_one_set_go_by_the_order_that_lets_them(database):
    ann, house = account_of(user(), "USD"), our_account("house", "USD")
    credit(1, 1, ann)
    post([Posting("settlement", 1, 0, ann, house, Decimal(5)), Posting("deposit", 2, 0, house, ann, Decimal(4))])
    assert state(ann) == (0, 0, 0)


def test_a_hold_is_paid_out_or_given_back_once(database):
    ann = account_of(user(), "USD")
    credit(1, 10, ann)
    hold(1, ann, 4), hold(2, ann, 5)
    hold(1, ann, 4)  # again: nothing
    with pytest.raises(IntegrityError, match="withdrawal 1: holds 4 of account"):
        hold(1, ann, 3)
    assert state(ann) == (1, 9, 0)
    db.rows("select post_withdrawal(1, 'bank')"), db.rows("select cancel_withdrawal(2)")
    for again in ("post_withdrawal(1, 'bank')", "cancel_withdrawal(1)", "cancel_withdrawal(2)"):
        db.rows(f"select {again}")
    assert state(ann) == (6, 0, 0)
    assert db.rows("select state, amount from hold order by cause_id") == [("posted", 4), ("released", 5)]
    with pytest.raises(IntegrityError, match="withdrawal 2 holds nothing"):
        db.rows("select post_withdrawal(2, 'bank')")
    with pytest.raises(InternalError, match="UPDATE of hold is refused"):
        db.rows("update hold set state = 'pending', ended_at = null, amount = 9 where cause_id = 2")
    assert problems() == []


def test_no_more_is_paid_out_of_what_is_locked_than_is_locked(database):
    ann, house = account_of(user(), "USD"), our_account("house", "USD")
    credit(1, 10, ann)
    hold(1, ann, 4)
    with pytest.raises(IntegrityError, match="account_locked_check"):
        post([Posting("trade", 1, n, ann, house, Decimal(3), held=True) for n in range(2)])
    post([Posting("trade", 1, 0, ann, house, Decimal(3), held=True)])
    assert state(ann) == (6, 1, 0)
    assert Counter(found["problem"] for found in problems()) == {
        "what is locked is not what orders and holds hold": 1,
        "what orders and holds have paid is not what was posted for them": 1,
    }


def test_nothing_is_withdrawn_from_a_frozen_account(database):
    ann = account_of(user(), "USD")
    credit(1, 10, ann)
    hold(1, ann, 1)
    assert ledger.freeze([ann, our_account("house", "USD")], "its deposit is gone from the chain") == 1
    with pytest.raises(IntegrityError, match="is frozen: its deposit is gone from the chain"):
        hold(2, ann, 1)
    hold(1, ann, 1)  # again: nothing
    assert ledger.unfreeze(ann)
    assert not ledger.unfreeze(ann)
    hold(2, ann, 1)


def test_an_account_of_ours_is_found_by_its_name_however_many_users_there_are(database):
    db.rows("insert into app_user (external_id) select 'user' || n from generate_series(1, 2000) n")
    db.rows("select open_accounts(array_agg(id), array_agg('USD'::text)) from app_user")
    ledger.our_account("fees", "USD")
    db.rows("analyze account")
    read = "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'account'"
    with db.transaction():
        db.rows("select our_account('fees', code) from asset where code = 'USD'")  # as a fill does
        assert db.rows(read)[0][0] < 10


def test_the_app_may_withdraw_and_move_money_no_other_way(database):
    grant()
    ann = account_of(user(), "USD")
    credit(1, 10, ann)
    with db.transaction():
        db.rows("set local role nightdesk_app")
        db.rows("select hold_withdrawal(5, %s, 'USD', 4)", user())
        db.rows("select post_withdrawal(5, 'bank')")
        assert db.rows("select available from account where id = %s", ann) == [(6,)]
    for statement in (
        "select post_transfers(array[('deposit', 2, 0, 2, 1, 5, null)::posting])",
        "select place_holds(array[('withdrawal', 1, 1, 1)::holding])",
        "select release_holds(array[1])",
        "select reverse_transfers(array[1])",
        "update account set balance = 99",
        "insert into transfer (cause, cause_id, leg) values ('deposit', 2, 0)",
    ):
        with db.transaction():
            db.rows("set local role nightdesk_app")
            with pytest.raises(PeeweeException, match="permission denied"), db.transaction():
                db.rows(statement)


def test_no_temporary_table_of_the_app_stands_in_for_one_of_ours(database):
    grant()
    ann = account_of(user(), "USD")
    credit(1, 10, ann)
    hold(1, ann, 10)
    with db.transaction():
        db.rows("set local role nightdesk_app")
        db.rows(
            """create temp table hold as select 1::bigint as id, %s::bigint as account_id, 'withdrawal' as cause,
                 7::bigint as cause_id, 9::numeric as amount, 'pending' as state, now() as created_at,
                 null::timestamptz as ended_at""",
            ann,
        )
        db.rows("grant all on hold to public")
        with pytest.raises(IntegrityError, match="withdrawal 7 holds nothing"), db.transaction():
            db.rows("select post_withdrawal(7, 'elsewhere')")
        db.rows("drop table pg_temp.hold")


def test_what_was_written_past_the_functions_is_found(database):
    ann = account_of(user(), "USD")
    credit(1, 10, ann)
    hold(1, ann, 1)
    db.rows("update account set balance = balance + 1 where id = %s", ann)
    db.rows("update account set locked = 2 where id = %s", ann)
    assert Counter(found["problem"] for found in problems()) == {
        "the balances of an asset do not sum to zero": 1,
        "a balance is not the sum of its transfers": 1,
        "what is locked is not what orders and holds hold": 1,
    }


def test_many_at_once_on_the_same_accounts_wait_for_each_other_and_never_in_a_circle(database):
    people = [account_of(user(f"user{n}"), "USD") for n in range(6)]
    for n, account in enumerate(people):
        credit(n, 1000, account)
    errors, together = [], Barrier(4)

    def run(number: int) -> None:
        with db.database.connection_context():
            together.wait()
            try:
                for n in range(40):
                    ways = [(people[(n + k) % 6], people[(n + k + number + 1) % 6]) for k in range(6)]
                    ways = ways if n % 2 else ways[::-1]
                    post(
                        [Posting("trade", number * 1000 + n, leg, *way, Decimal(1)) for leg, way in enumerate(ways)
                         if way[0] != way[1]]
                    )  # fmt: skip
            except PeeweeException as error:
                errors.append(error)

    threads = [Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert problems() == []
    assert db.rows("select sum(balance) from account where user_id is not null") == [(6000,)]


# A law: whatever happens in whatever order, the database says what plain code says of it, or both refuse.

AMOUNTS = st.integers(1, 12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("credit"), st.integers(0, 1), AMOUNTS),
        st.tuples(st.just("pay"), st.integers(0, 1), AMOUNTS),
        st.tuples(st.just("hold"), st.integers(0, 1), AMOUNTS),
        st.tuples(st.just("post"), st.integers(0, 9)),
        st.tuples(st.just("release"), st.integers(0, 9)),
        st.tuples(st.just("reverse"), st.integers(0, 9)),
        st.tuples(st.just("again"), st.integers(0, 30)),
    ),
    max_size=30,
)


class Plain:
    """Two users' accounts, in plain code: `free` is what is available, or below zero what is owed."""

    def __init__(self) -> None:
        self.free, self.locked = [0, 0], [0, 0]
        self.holds: list[list] = []  # [whose, amount, how it ended]
        self.credits: list[list] = []  # [whose, amount, stands]

    def does(self, step: tuple) -> bool:
        """Do it; False where it must be refused."""
        kind, which = step[0], step[1]
        if kind == "credit":
            self.free[which] += step[2]
            self.credits.append([which, step[2], True])
        elif kind in ("pay", "hold"):
            if self.free[which] < step[2]:
                return False
            self.free[which] -= step[2]
            if kind == "hold":
                self.locked[which] += step[2]
                self.holds.append([which, step[2], None])
        elif kind in ("post", "release") and which < len(self.holds):
            whose, amount, ended = self.holds[which]
            if ended is None:
                self.locked[whose] -= amount
                self.free[whose] += amount if kind == "release" else 0
                self.holds[which][2] = kind
            elif kind == "post" and ended == "release":
                return False
        elif kind == "post":
            return False
        elif kind == "reverse" and which < len(self.credits):
            whose, amount, stands = self.credits[which]
            self.free[whose] -= amount if stands else 0
            self.credits[which][2] = False
        return True


class Real:
    """The same in the database."""

    def __init__(self) -> None:
        self.people = [account_of(user(name), "USD") for name in ("ann", "bob")]
        self.house = our_account("house", "USD")
        self.credits: list[int] = []
        self.holds = 0
        self.calls: list[tuple] = []  # that went well, to be repeated

    def does(self, number: int, step: tuple) -> bool:
        """Do it; False where it was refused."""
        kind, which = step[0], step[1]
        if kind == "credit":
            call = (post, [Posting("deposit", number, 0, self.house, self.people[which], Decimal(step[2]))])
        elif kind == "pay":
            call = (post, [Posting("settlement", number, 0, self.people[which], self.house, Decimal(step[2]))])
        elif kind == "hold":
            call = (hold, self.holds, self.people[which], step[2])
        elif kind == "reverse":
            call = (reverse, self.credits[which : which + 1])
        else:
            name = f"post_withdrawal({which}, 'house')" if kind == "post" else f"cancel_withdrawal({which})"
            call = (db.rows, f"select {name}")
        try:
            done = call[0](*call[1:])
        except IntegrityError:
            return False
        if kind not in ("post", "release") or which < self.holds:
            self.calls.append(call)
        self.holds += kind == "hold"
        self.credits += [done[0]["id"]] if kind == "credit" else []
        return True


@settings(max_examples=120)
@given(steps=STEPS)
def test_the_ledger_says_what_plain_code_says(database, steps):
    db.rows("select seed.restore()")
    db.rows("insert into asset (code, scale) values ('USD', 2)")
    plain, real = Plain(), Real()
    for number, step in enumerate(steps):
        if step[0] == "again":
            for call in real.calls[step[1] : step[1] + 1]:
                call[0](*call[1:])  # nothing happens
        else:
            assert plain.does(step) == real.does(number, step), step
        for whose, account in enumerate(real.people):
            free = plain.free[whose]
            assert state(account) == (max(free, 0), plain.locked[whose], max(-free, 0)), step
    assert problems() == []
