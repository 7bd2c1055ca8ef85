"""Crediting, holds, reports, what is stuck, and the proof of balance."""

import json
from decimal import Decimal
from threading import Thread

import pytest

import clients.chains
import db
from domain.failures import Unavailable
from jobs.chains import check_confirmations
from jobs.deposits import (
    CACHE_KEY,
    credit_deposits,
    find_stuck_deposits,
    prove,
    publish_deposit_report,
    settle,
    verify_balances,
)
from models import crediting, ledger, proofs
from tests.chains import events, now


def confirmed(world, *amounts):
    for amount in amounts:
        world.pay(amount)
    world.chain.mine(12)
    world.scan()
    check_confirmations(due_at=now())


def test_a_held_users_deposits_wait_and_a_release_lets_them_pass_with_its_reason_in_the_audit(world, nightdesk):
    db.rows("insert into deposit_hold (user_id, reason) values (%s, 'source of funds')", world.ann)
    confirmed(world, "1")
    assert credit_deposits(due_at=now()) == {"credited": 0, "held": 1}
    assert db.rows("select state, reason from deposit") == [("held", "source of funds")]
    assert credit_deposits(due_at=now()) == {"credited": 0, "held": 0}
    ((number,),) = db.rows("select id from deposit")
    done = nightdesk("deposits", "release", str(number), "--why", "papers came", "--who", "kim")
    assert done.returncode == 0, done.stderr
    assert credit_deposits(due_at=now())["credited"] == 0
    assert world.states == ["confirming"]  # compared with its chain once more
    assert world.look()["credited"] == 1
    assert db.rows("select who, new ->> 'why' from audit") == [("kim", "papers came")]


def test_large_amounts_wait_for_a_check_where_the_asset_says_so_and_the_app_may_clear_them_before(world):
    db.rows("update chain_asset set hold_above = 10 where contract = ''")
    confirmed(world, "9.9", "10", "11")
    db.rows("update deposit set cleared_at = now() where amount = 11")
    assert credit_deposits(due_at=now()) == {"credited": 2, "held": 1}
    assert db.rows("select reason from deposit where state = 'held'") == [("10 ETH or more waits for a check",)]


def test_one_that_the_ledger_refuses_is_held_alone_and_the_others_are_credited(world):
    confirmed(world, "1", "2.123456789", "3")
    db.rows("update asset set scale = 8 where code = 'ETH'")
    assert credit_deposits(due_at=now()) == {"credited": 2, "held": 1}
    ((reason,),) = db.rows("select reason from deposit where state = 'held'")
    assert "2.123456789 is no amount of ETH" in reason
    assert (world.available(), ledger.problems()) == (4, [])


def test_four_workers_at_once_credit_each_deposit_once(world):
    confirmed(world, *["1"] * 40)

    def work():
        with db.database.connection_context():
            credit_deposits(due_at=now())

    threads = [Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert (world.available(), set(world.states)) == (40, {"credited"})
    assert events()["balance.credited"] == 40
    assert ledger.problems() == []


def test_retry_looks_again_at_what_failed_and_says_no_to_what_did_not(world, nightdesk):
    world.pay("0.0005")
    world.grow(12)
    ((number,),) = db.rows("select id from deposit where state = 'failed'")
    refused = nightdesk("deposits", "retry", str(number), "--why", "customer asks")
    assert refused.returncode == 1
    assert "less than the minimum" in refused.stderr
    db.rows("update chain_asset set minimum = 0.0001")
    done = nightdesk("deposits", "retry", str(number), "--why", "the minimum is lower now")
    assert done.returncode == 0, done.stderr
    world.look()
    assert (world.states, world.available()) == (["credited"], Decimal("0.0005"))
    assert nightdesk("deposits", "retry", str(number), "--why", "again").returncode == 1


def test_retry_of_a_failed_transaction_fails_again_where_it_has_failed(world, nightdesk):
    world.pay(ok=False)
    world.grow(12)
    ((number,),) = db.rows("select id from deposit")
    assert nightdesk("deposits", "retry", str(number), "--why", "is it so?").returncode == 0
    check_confirmations(due_at=now())
    assert world.states == ["pending"]
    world.look()
    assert world.states == ["failed"]


def test_the_proof_holds_with_deposits_in_every_state(world):
    db.rows("insert into chain_address (chain, address) values ('ethereum', %s)", "0x" + "aa" * 20)
    world.credited("3")
    world.chain.pay("0x" + "aa" * 20, 7)  # the house's own wallet …
    world.chain.mine()
    house = ledger.our_account("house", "ETH")
    ledger.post(
        [ledger.Posting("operator", 1, 0, ledger.our_account("chain:ethereum", "ETH"), house, Decimal("7e-18"))]
    )
    world.pay("2"), world.pay("0.0001"), world.pay("9", ok=False), world.pay("4", token=True)
    world.chain.mine(2)
    world.look()
    assert sorted(world.states) == ["confirming", "confirming", "credited", "failed", "failed"]
    assert verify_balances(due_at=now()) == {"proofs": 3, "drifts": 0, "failed": 0}
    world.chain.reorg(2, drop=True)
    world.look()
    assert verify_balances(due_at=now())["drifts"] == 0


def test_one_unit_too_much_in_a_wallet_is_found_and_pauses_its_asset_until_an_operator_resumes_it(world, nightdesk):
    world.credited("1")
    in_her_wallet = "update account set balance = balance + %s where user_id = %s and asset = 'ETH'"
    db.rows(in_her_wallet, Decimal("1e-18"), world.ann)
    assert verify_balances(due_at=now())["drifts"] == 1
    assert db.rows("select asset, chain, drift from balance_proof where drift <> 0") == [("ETH", "", Decimal("1e-18"))]
    assert events()["balance.drifted"] == 1
    confirmed(world, "1")
    world.pay("5", token=True)
    world.grow(12)
    assert world.available(asset="USDC") == 5  # other assets go on
    assert db.rows("select state from deposit where asset = 'ETH' order by id") == [("credited",), ("confirmed",)]
    assert verify_balances(due_at=now())["drifts"] == 1  # said once
    assert events()["balance.drifted"] == 1
    db.rows(in_her_wallet, Decimal("-1e-18"), world.ann)
    done = nightdesk("deposits", "resume", "ETH", "--why", "a test of mine", "--who", "kim")
    assert done.returncode == 0, done.stderr
    assert world.look()["credited"] == 1
    assert db.rows("select who, action, target, new ->> 'why' from audit") == [
        ("kim", "deposits resume", "ETH", "a test of mine")
    ]
    assert verify_balances(due_at=now())["drifts"] == 0


def test_one_unit_missing_on_the_chain_is_found(world):
    world.credited("1")
    ((_, paid),) = world.chain.paid(0)
    object.__setattr__(paid, "units", 10**18 - 1)
    assert verify_balances(due_at=now())["drifts"] == 1
    assert db.rows("select chain, drift from balance_proof where drift <> 0") == [("ethereum", Decimal("-1e-18"))]
    ((reason,),) = db.rows("select reason from credit_pause")
    assert reason == "ethereum holds 0.999999999999999999 ETH, the ledger says 1"


def test_what_nobody_has_sent_by_a_transaction_is_booked_once_and_the_proof_holds_again(world, nightdesk):
    world.credited("1")
    ((_, paid),) = world.chain.paid(0)
    object.__setattr__(paid, "units", 10**18 + 5)  # dust of a contract came with it
    assert verify_balances(due_at=now())["drifts"] == 1
    book = ("deposits", "book", "ethereum", "eth")
    wrong = nightdesk(*book, "0.000000000000000006", "--why", "dust")
    assert wrong.returncode == 1
    assert "no drift of 0.000000000000000006" in wrong.stderr
    assert nightdesk(*book, "0.000000000000000005", "--why", "dust", "--who", "kim").returncode == 0
    assert nightdesk(*book, "0.000000000000000005", "--why", "dust").returncode == 1
    assert db.rows("select asset, drift from balance_proof where drift <> 0") == []
    assert db.rows("select balance from account where name = 'house'") == [(Decimal("5e-18"),)]
    assert nightdesk("deposits", "resume", "ETH", "--why", "dust is booked").returncode == 0
    assert verify_balances(due_at=now())["drifts"] == 0
    assert (world.available(), ledger.problems()) == (1, [])
    object.__setattr__(paid, "units", 10**18 + 2)  # and a fee went
    assert verify_balances(due_at=now())["drifts"] == 1
    assert nightdesk(*book, "-0.000000000000000003", "--why", "a fee", "--who", "lee").returncode == 0
    assert verify_balances(due_at=now())["drifts"] == 0
    assert db.rows("select who, new ->> 'drift' from audit where action = 'deposits book' order by id") == [
        ("kim", "0.000000000000000005"), ("lee", "-0.000000000000000003"),
    ]  # fmt: skip
    assert ledger.problems() == []


def test_a_proof_that_was_taken_before_its_drift_was_booked_is_not_kept(world):
    world.credited("1")
    ((_, paid),) = world.chain.paid(0)
    object.__setattr__(paid, "units", 10**18 + 5)
    verify_balances(due_at=now())
    (taken,) = prove(clients.chains.node("ethereum"), "ethereum")
    with db.transaction():
        proofs.book("ethereum", "ETH", Decimal("5e-18"), 1)
    assert not settle(taken)
    assert db.rows("select drift from balance_proof where chain = 'ethereum'") == [(0,)]


def test_a_credit_that_an_operator_took_back_comes_by_no_chain_and_no_second_time(world, nightdesk):
    number = world.credited("2")
    ((credit,),) = db.rows("select id from transfer where cause = 'deposit'")
    assert nightdesk("ledger", "reverse", str(credit), "--why", "a stolen card").returncode == 0
    assert db.rows("select state, reason from deposit") == [("held", "its credit was taken back: a stolen card")]
    assert (world.available(), verify_balances(due_at=now())["drifts"]) == (0, 0)
    again = nightdesk("ledger", "reverse", str(credit), "--why", "again")
    assert (again.returncode, "is reversed already" in again.stderr) == (1, True)
    ((taken,),) = db.rows("select id from transfer where cause = 'reversal'")
    assert "deposits release" in nightdesk("ledger", "reverse", str(taken), "--why", "no, give it").stderr
    world.chain.reorg(41)  # it is mined again in another block
    world.grow(40), world.look()
    assert (world.states, world.available()) == (["held"], 0)
    assert events()["deposit.reversed"] == 0
    assert db.rows("select count(*) from transfer where cause = 'reversal'") == [(1,)]
    assert nightdesk("deposits", "release", str(number), "--why", "it was theirs").returncode == 0
    world.look(), world.look()
    assert (world.states, world.available(), ledger.problems()) == (["credited"], 2, [])
    assert verify_balances(due_at=now())["drifts"] == 0


def test_a_credit_that_its_chain_took_back_first_is_held_all_the_same_when_it_is_mined_again(world, nightdesk):
    tx = world.pay("2")
    world.grow(40)
    ((credit,),) = db.rows("select id from transfer where cause = 'deposit'")
    world.chain.reorg(41, drop=True)
    world.grow(40), world.look()
    assert world.states == ["orphaned"]
    told = nightdesk("ledger", "reverse", str(credit), "--why", "a stolen card")
    assert (told.returncode, "mined again" in told.stdout) == (0, True)
    assert "is reversed already" in nightdesk("ledger", "reverse", str(credit), "--why", "again").stderr
    world.pay("2", tx=tx)
    world.grow(40), world.look()
    assert (world.states, world.available(), ledger.problems()) == (["held"], 0, [])


@pytest.mark.parametrize("of", ["ann", "bob"])
def test_what_was_taken_back_is_held_where_its_log_has_another_number_and_not_what_has_its_old_one(world, of):
    world.pay("3", world.bob, token=True)
    world.chain.mine()
    tx = world.pay("5", token=True)
    world.pay("5", world.bob, token=True, tx=tx)
    world.grow(40)
    user, others = (world.ann, world.bob) if of == "ann" else (world.bob, world.ann)
    ((credit,),) = db.rows(
        """select t.id from transfer t join deposit d on d.id = t.cause_id
           where t.cause = 'deposit' and d.user_id = %s and d.tx = %s""",
        *(user, f"0x{tx}"),
    )
    with db.transaction():
        crediting.take_back_by_hand(credit, "a stolen card")
    world.chain.reorg(42)  # all are mined again in one block, where each log of the second transaction is one further
    world.grow(40), world.look()
    found = db.rows("select user_id, output, state from deposit where state <> 'orphaned' and tx = %s", f"0x{tx}")
    assert sorted(found) == sorted(
        (who, 1 if who == world.ann else 2, "held" if who == user else "credited") for who in (user, others)
    )
    assert ledger.problems() == []


def test_two_accounts_that_are_wrong_by_the_same_do_not_cover_one_another(world):
    world.credited("1"), world.credited("1", world.bob)
    db.rows(
        "update account set balance = balance + case user_id when %s then 1 else -1 end where user_id > 0", world.ann
    )
    assert verify_balances(due_at=now())["drifts"] == 1


def test_a_node_that_is_away_costs_its_own_proof_alone(world, chain_servers):
    world.credited("1")
    chain_servers.faults.add("ethereum", 500)
    assert verify_balances(due_at=now()) == {"proofs": 1, "drifts": 0, "failed": 1}


def test_what_waits_for_too_long_is_found_with_its_likely_cause_and_forgotten_when_it_goes_on(world):
    db.rows("update chain_asset set hold_above = 5")
    world.pay("1"), world.pay("8")
    world.chain.mine(3)
    world.look()
    assert find_stuck_deposits(due_at=now()) == {"stuck": 0, "new": 0}
    assert find_stuck_deposits(due_at=now(hours=1)) == {"stuck": 2, "new": 2}
    ((detail, *_), *_) = db.rows("select detail from chain_incident where kind = 'stuck'")
    assert "ETH confirming for 60 min, expected 17 min:" in detail
    assert "see docs/deposits.md#" in detail
    assert find_stuck_deposits(due_at=now(hours=2)) == {"stuck": 2, "new": 0}
    assert events()["deposits.stuck"] == 1
    world.grow(12)
    assert sorted(world.states) == ["credited", "held"]
    assert find_stuck_deposits(due_at=now(hours=2)) == {"stuck": 0, "new": 0}
    assert find_stuck_deposits(due_at=now(hours=25)) == {"stuck": 1, "new": 1}


def test_the_report_says_where_chains_and_deposits_are(world, redis, nightdesk):
    world.pay("1.25")
    world.chain.mine(3)
    world.look()
    publish_deposit_report(due_at=now())
    report = json.loads(redis.get(CACHE_KEY))
    (ethereum,) = [row for row in report["chains"] if row["chain"] == "ethereum"]
    assert (ethereum["cursor"], ethereum["behind"], ethereum["addresses"]) == (1043, 0, 2)
    assert [(row["asset"], row["state"], row["count"]) for row in report["deposits"]] == [("ETH", "confirming", 1)]
    shown = nightdesk("deposits", "report").stdout
    assert "ethereum" in shown
    assert "1.25" in shown
    assert "confirming" in nightdesk("deposits", "list").stdout
    ((number,),) = db.rows("select id from deposit")
    assert json.loads(nightdesk("deposits", "show", str(number), "--json").stdout)[0]["state"] == "confirming"
    assert nightdesk("deposits", "show", "0").returncode == 1


def test_a_rescan_from_a_block_too_low_is_shown_and_undone_by_a_later_one(world, call):
    rescan = ("deposits", "rescan", "ethereum", "--why", "an asset was added")
    db.rows("update chain set kept = 32 where name = 'ethereum'")
    world.pay()
    world.chain.mine(100)
    world.scan()
    assert "has not been read up to 1141, but to 1140\n" in call(*rescan, "1141", code=1).output
    assert "ethereum is read again from 5: 1,136 blocks" in call(*rescan, "5").output
    with pytest.raises(Unavailable, match=r"no block 2: set a node that .* rescan ethereum NUMBER"):
        world.scan()
    check_confirmations(due_at=now())
    assert "no block 2" in call("deposits", "report").output, "a check that goes well is not the end of it"
    refused = call(*rescan, "1140", code=1).output
    assert "has not been read up to 1140, but to 4; it can go on from 1109 at the highest" in refused
    assert "ethereum goes on from 1109" in call(*rescan, "1109").output
    world.pay(), world.chain.mine(12)
    world.look()
    assert world.states == ["credited", "credited"]
    assert db.rows("select cursor, error from chain where name = 'ethereum'") == [(1152, None)]


def test_a_rescan_of_very_many_blocks_wants_a_word_more(world, call):
    db.rows("update chain set cursor = 12004 where name = 'ethereum'")
    rescan = ("deposits", "rescan", "ethereum", "5", "--why", "an asset was added")
    assert "12,000 blocks would be read again, up to 12004: say --far" in call(*rescan, code=1).output
    assert "from 5: 12,000 blocks" in call(*rescan, "--far").output
