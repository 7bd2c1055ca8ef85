"""Chains that lie, move while they are read, or are asked for by two at once; each cost somebody once."""

from decimal import Decimal
from threading import Thread

import pytest
from peewee import IntegrityError

import db
import jobs.chains
from clients import solana
from domain.chains import Payment
from domain.failures import Rejected, Unavailable
from jobs.chains import check_confirmations
from jobs.deposits import credit_deposits, verify_balances
from models import crediting, deposits, ledger
from tests.chains import now

PAID = Payment("0x" + "1" * 64, 3, 1040, "0x" + "2" * 64, "", 10**18)


def show(*payments: Payment) -> None:
    with db.transaction():
        deposits.record("ethereum", payments)


def paid(world, user=None, **other) -> Payment:
    return Payment(**{**vars(PAID), "address": world.addresses[user or world.ann], **other})


@pytest.mark.parametrize("claims", [5, 2**63, 2**200])
def test_a_head_below_all_that_we_keep_or_beyond_counting_is_shown_and_changes_nothing(world, claims):
    world.pay()
    world.chain.mine()
    world.scan()
    world.chain.claims = claims
    with pytest.raises((Unavailable, Rejected), match=r"lags|above"):
        world.scan()
    assert check_confirmations(due_at=now())["failed"] == 1
    assert db.rows("select error is not null from chain where name = 'ethereum'") == [(True,)]
    world.chain.claims = None
    assert world.grow(12)["credited"] == 1


def test_what_a_bitcoin_address_received_long_before_it_was_ours_is_nobodys_deposit(on):
    world = on("bitcoin")
    cold = "bc1q" + "ab" * 19
    world.chain.pay(cold, 10**8)
    world.chain.mine(20)
    world.scan()
    db.rows("insert into chain_address (chain, address, user_id) values ('bitcoin', %s, %s)", cold, world.bob)
    world.chain.pay(cold, 10**7)
    world.grow(8)
    assert world.available(world.bob) == Decimal("0.1")


def test_the_proof_does_not_take_a_reorg_or_an_address_that_waits_for_its_turn_for_a_drift(on, monkeypatch):
    world = on()
    world.credited("2"), world.pay("1")
    world.chain.mine()
    world.scan()
    world.chain.reorg(1, drop=True)
    assert verify_balances(due_at=now()) == {"proofs": 1, "drifts": 0, "failed": 1}
    world = on("solana")
    monkeypatch.setattr(jobs.chains, "ADDRESSES", 1)
    for _ in range(4):
        world.pay(), world.pay("1", world.bob)
        world.grow(40)
    assert verify_balances(due_at=now())["drifts"] == 0
    assert db.rows("select * from credit_pause") == []


def test_a_payment_in_a_slot_that_has_no_block_is_not_believed(on, monkeypatch):
    world = on("solana")
    parse, gone = solana.parse_block, solana.Problem("skipped", -32007)
    monkeypatch.setattr(solana, "parse_block", lambda slot, answer: parse(slot, gone if slot == 1041 else answer))
    world.pay()
    world.chain.mine(2)
    with pytest.raises(Unavailable, match="has no block yet"):
        world.scan()
    assert world.states == []


def test_a_log_that_comes_removed_and_good_in_one_answer_is_one_deposit(world):
    show(paid(world, hash="0x" + "3" * 64, outcome="removed"), paid(world), paid(world, outcome="removed"))
    assert (world.states, set(world.incidents)) == (["pending"], {"removed"})


def test_clearance_is_of_a_payment_and_not_of_its_number_after_a_reorg(world):
    show(paid(world))
    ((number,),) = db.rows("select id from deposit")
    deposits.clear(number)
    for user, kept in ((world.ann, True), (world.bob, False)):
        with db.transaction():
            crediting.take_back([number], "gone")
        show(paid(world, user, hash=f"0x{user:064x}"))
        assert db.rows("select user_id, cleared_at is not null from deposit") == [(user, kept)]


def test_what_is_confirmed_while_others_are_credited_is_held_like_them(world):
    world.pay("5")
    world.grow(11)
    db.rows("insert into deposit_hold (user_id, reason) values (%s, 'look')", world.ann)
    crediting_now = crediting.credit()
    next(crediting_now)
    assert not db.database.in_transaction()  # what is held is committed before anybody is told
    world.chain.mine()
    world.scan()
    check_confirmations(due_at=now())
    list(crediting_now)
    assert world.states == ["confirmed"]
    assert credit_deposits(due_at=now())["held"] == 1


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1"])
def test_the_app_can_write_no_rule_that_is_no_number(world, value):
    for statement in (
        "update chain_asset set minimum = %s",
        "update chain_asset set hold_above = %s",
        "insert into finality_tier values ('ethereum', '', %s, 5)",
    ):
        with pytest.raises(IntegrityError):
            db.rows(statement, value)


def test_a_reorg_touches_only_the_addresses_that_were_read_further(on):
    world = on("bitcoin")
    db.rows("insert into chain_address (chain, address, user_id) values ('bitcoin', 'new', %s)", world.ann)
    before = db.rows("select address, xmin from chain_address order by 1")
    with db.transaction():
        jobs.chains.chains.rewind("bitcoin", None, 1040)
    moved = {a for a, _ in set(before) - set(db.rows("select address, xmin from chain_address order by 1"))}
    assert moved == set(world.addresses.values())


def test_checks_holds_credits_and_reorgs_at_once_wait_for_nobody_in_a_circle(world):
    show(*(paid(world, world.ann if n % 2 else world.bob, tx=f"{n:#066x}") for n in range(300)))
    errors: list[Exception] = []

    def check(turn: int) -> None:
        flights = deposits.in_flight("ethereum", 1000)
        flights.sort(key=lambda flight: flight[1].id * (-1) ** turn)
        steps = [(deposit, deposits.Step("confirmed", turn, 1)) for _, deposit in flights]
        with db.transaction():
            deposits.advance(steps)

    def take_back(turn: int) -> None:
        with db.transaction():
            crediting.take_back(range(0, 10**6, 1 + turn % 3), "gone")
        show(*(paid(world, world.ann if n % 2 else world.bob, tx=f"{n:#066x}") for n in range(0, 300, 3)))

    def run(task) -> None:
        try:
            db.rows("set lock_timeout = '60s'")  # a circle is found after a second; a busy machine only takes longer
            for turn in range(6):
                task(turn)
        except Exception as problem:  # noqa: BLE001  # it is the verdict
            errors.append(problem)
        finally:
            db.database.close()

    tasks = [check, check, take_back, take_back, lambda turn: list(crediting.credit()), lambda turn: crediting.hold()]
    threads = [Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert ledger.problems() == []
