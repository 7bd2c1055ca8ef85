"""A chain that leaves what we have read: what was on it is taken back, and found again where it is now."""

from decimal import Decimal

import pytest
from peewee import IntegrityError

import db
from domain.failures import Rejected, Unavailable
from jobs.chains import check_confirmations
from models import ledger
from tests.chains import events, now

DEPTHS = (1, 30)  # those between: on a real node, tests/jobs/test_anvil.py


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("state", ["pending", "confirming", "confirmed", "held", "credited", "failed"])
def test_a_deposit_that_the_chain_drops_is_orphaned_whatever_its_state_was(world, state, depth):
    bring(world, state, depth)
    world.chain.reorg(depth, drop=True)
    world.look()
    assert world.states == ["orphaned"]
    assert (world.available(), ledger.problems()) == (0, [])
    assert events()["deposit.reversed"] == (state == "credited")
    assert events()["chain.reorganized"] == 1
    assert world.incidents == ["reorg"]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("state", ["pending", "confirming", "confirmed", "held", "credited"])
def test_a_deposit_that_is_mined_again_begins_anew_in_its_new_block_and_is_credited_once(world, state, depth):
    bring(world, state, depth)
    world.chain.reorg(depth)
    world.look()
    ((number, found, confirmations),) = db.rows("select number, hash, confirmations from deposit")
    assert found == "0x" + world.chain.find(number, now().timestamp()).hash
    assert confirmations == 1
    db.rows("update deposit set cleared_at = now()")
    db.rows("update chain_asset set confirmations = 12")
    world.grow(12), world.look()
    assert (world.states, world.available(), ledger.problems()) == (["credited"], 1, [])


def bring(world, state, depth):
    """A deposit in this state, with `depth` blocks from its own to the head."""
    rule = min(depth, 12)
    db.rows("update chain_asset set confirmations = %s", 10_000 if state in ("pending", "confirming") else rule)
    if state == "held":
        db.rows("insert into deposit_hold (user_id, reason) values (%s, 'to be looked at')", world.ann)
    world.pay(ok=state != "failed")
    world.chain.mine(depth)
    world.scan()
    if state not in ("pending", "failed"):
        check_confirmations(due_at=now())
    if state in ("held", "credited"):
        world.look()
    assert world.states == [state]


def test_what_the_user_has_spent_of_it_is_owed_and_later_credits_repay_it_first(world):
    world.credited("5")
    ann = ledger.account_of(world.ann, "ETH")
    ledger.post([ledger.Posting("operator", 1, 0, ann, ledger.our_account("house", "ETH"), Decimal(3))])
    world.chain.reorg(41, drop=True)
    world.look()
    assert db.rows("select available, owed, frozen_at is not null from account where id = %s", ann) == [(0, 3, True)]
    assert db.rows("select payload ->> 'owed' from event where topic = 'deposit.reversed'") == [("3",)]
    assert db.rows("select severity from notification order by id desc limit 1") == [("warning",)]
    world.credited("4")
    assert db.rows("select available, owed, frozen_at is not null from account where id = %s", ann) == [(1, 0, True)]
    assert ledger.problems() == []


def test_what_was_bought_with_a_deposit_that_is_gone_cannot_be_withdrawn_either(world):
    world.credited("5")
    bought = ledger.account_of(world.ann, "USDC")
    ledger.post([ledger.Posting("settlement", 1, 0, ledger.our_account("house", "USDC"), bought, Decimal(9))])
    world.chain.reorg(41, drop=True)
    world.look()
    with pytest.raises(IntegrityError, match="is frozen: a deposit was taken back"):
        db.rows("select hold_withdrawal(1, %s, 'USDC', 9)", world.ann)
    assert ledger.unfreeze(ledger.account_of(world.ann, "ETH"))
    db.rows("select hold_withdrawal(1, %s, 'USDC', 9)", world.ann)


def test_others_deposits_below_the_fork_and_on_other_accounts_are_left_alone(world):
    world.credited("2", world.bob)
    world.pay("1")
    world.grow(15)
    world.chain.reorg(15, drop=True)
    world.look()
    assert world.states == ["credited", "orphaned"]
    assert db.rows("select count(*) from account where frozen_at is not null") == [(1,)]
    assert world.available(world.bob) == 2


def test_a_reorg_of_more_blocks_than_are_kept_pauses_the_chain_until_an_operator_has_looked(world, nightdesk):
    db.rows("update chain set kept = 32 where name = 'ethereum'")
    world.credited()
    world.chain.reorg(50, drop=True)
    with pytest.raises(Rejected, match="more than the 32 blocks"):
        world.scan()
    assert world.incidents == ["deep_reorg"]
    assert events()["chain.paused"] == 1
    assert world.look() == {"blocks": 0, "credited": 0, "held": 0}
    done = nightdesk("deposits", "rescan", "ethereum", "1040", "--why", "the fork is at 1040")
    done = nightdesk("deposits", "resume", "ethereum", "--why", "read again") if not done.returncode else done
    assert done.returncode == 0, done.stderr
    world.look()
    assert (world.states, world.available()) == (["orphaned"], 0)
    assert db.rows("select action from audit order by id") == [("deposits rescan",), ("deposits resume",)]


def test_a_shorter_chain_with_other_blocks_is_a_reorg_and_one_with_the_same_a_node_that_lags(world):
    world.pay()
    world.grow(5)
    world.chain.claims = world.chain.head(0) - 3
    with pytest.raises(Unavailable, match="it lags"):
        world.scan()
    world.chain.claims = None
    world.chain.reorg(5, drop=True)
    world.chain.claims = world.chain.head(0) - 3
    world.look()
    assert world.states == ["orphaned"]


def test_a_deposit_that_a_scan_has_found_in_its_new_block_is_not_taken_back_by_a_check_of_the_old_one(
    world, monkeypatch
):
    world.pay()
    world.chain.mine(3)
    world.scan()
    from jobs import chains as jobs

    found = jobs.deposits.in_flight

    def then_it_moves(*of):
        flights = found(*of)
        world.chain.reorg(3)
        world.scan()
        return flights

    with monkeypatch.context() as patch:
        patch.setattr(jobs.deposits, "in_flight", then_it_moves)
        check_confirmations(due_at=now())
    assert world.states == ["pending"]
    assert events() == {"deposit.seen": 2, "deposit.orphaned": 1, "chain.reorganized": 1}
    assert world.grow(12)["credited"] == 1


def test_two_scans_at_once_write_one_result(world, monkeypatch):
    world.pay()
    world.chain.mine(3)
    from jobs import chains as jobs

    verify = jobs.verify_decimals
    once = iter([True])

    def meanwhile(*arguments):
        verify(*arguments)
        if next(once, False):
            world.scan()

    read = jobs.read
    monkeypatch.setattr(jobs, "verify_decimals", meanwhile)
    monkeypatch.setattr(jobs, "read", lambda node, known, numbers: read(node, {**known, "version": known["version"] - 1}, numbers) if not world.states else read(node, known, numbers))  # fmt: skip  # noqa: E501
    with pytest.raises(Unavailable, match="moved while we read it"):
        world.scan()
    monkeypatch.undo()


def test_a_reorg_between_a_check_and_the_next_is_seen_before_the_deposit_goes_a_step_on(world):
    world.pay()
    world.chain.mine(11)
    world.look()
    world.chain.reorg(11, drop=True)
    world.chain.mine(5)
    assert check_confirmations(due_at=now())["confirmed"] == 0
    assert world.states == ["orphaned"]
