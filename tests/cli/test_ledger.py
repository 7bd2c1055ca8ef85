"""The ledger from a shell."""

from __future__ import annotations

import json

import pytest

import db
from models import ledger
from models.alerts import user_with


@pytest.fixture(autouse=True)
def user(database: object) -> int:
    db.rows("insert into asset (code, scale) values ('USD', 2)")
    return user_with("ann@example.com")


def test_a_user_is_given_money_and_it_is_taken_back_with_an_audit_row_each(call, user):
    said = call("ledger", "credit", "ANN@example.com", "usd", "12.50", "--why", "from the old system").output
    ((transfer, cause, cause_id),) = db.rows("select id, cause, cause_id from transfer")
    assert f"12.50 USD are ANN@example.com's by transfer {transfer}" in said
    assert db.rows("select id, new ->> 'why' from audit") == [(cause_id, "from the old system")]
    assert cause == "operator"
    call("ledger", "reverse", str(transfer), "--why", "the wrong user")
    assert "is reversed already" in call("ledger", "reverse", str(transfer), "--why", "again", code=1).output
    assert [row[0] for row in db.rows("select action from audit order by id")] == ["ledger credit", "ledger reverse"]
    assert ledger.accounts(user)[0]["balance"] == 0


def test_a_user_is_shown_with_accounts_and_transfers(call, user):
    call("ledger", "credit", "ann@example.com", "USD", "12.50", "--why", "bonus")
    (shown,) = json.loads(call("ledger", "of", "ann@example.com", "--json").output)
    assert [(a["asset"], a["available"]) for a in shown["accounts"]] == [("USD", "12.50")]
    assert [(t["change"], t["cause"], t["other"]) for t in shown["transfers"]] == [("12.50", "operator", "house")]
    assert "+12.50" in call("ledger", "of", "ann@example.com").output
    assert "house" in call("ledger", "of").output


def test_what_adds_up_is_said_and_what_does_not_is_an_error(call):
    call("ledger", "credit", "ann@example.com", "USD", "12.50", "--why", "bonus")
    assert "1 transfers and 0 holds add up" in call("ledger", "check").output
    db.rows("update account set balance = 13 where user_id is not null")
    shown = " ".join(call("ledger", "check", code=1).output.split())
    assert "a balance is not the sum of its transfers" in shown
    assert len(json.loads(call("ledger", "check", "--json", code=1).output)) == 2


def test_an_account_is_frozen_and_unfrozen_with_the_reason(call, user):
    account = ledger.account_of(user, "USD")
    call("ledger", "freeze", str(account), "--why", "under review")
    assert "frozen already" in call("ledger", "freeze", str(account), "--why", "again", code=1).output
    assert "under review" in call("ledger", "of", "ann@example.com").output
    call("ledger", "unfreeze", str(account), "--why", "it was well")
    assert "is not frozen" in call("ledger", "unfreeze", str(account), "--why", "again", code=1).output
    assert [row[0] for row in db.rows("select new ->> 'why' from audit order by id")] == ["under review", "it was well"]


def test_money_is_not_given_to_one_of_two_users_with_the_same_address(call, user):
    db.rows("insert into app_user (external_id, email) values ('ann the second', 'Ann@example.com')")
    refused = call("ledger", "credit", "ann@example.com", "USD", "5", "--why", "bonus", code=1).output
    assert "'ann@example.com' is 2 users: say the app's id of one" in refused
    assert db.rows("select count(*) from transfer") == [(0,)]
    call("ledger", "credit", "ann the second", "USD", "5", "--why", "bonus")
    assert ledger.accounts(user) == []


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("credit", "bob", "USD", "1", "--why", "x"), 1, "no user has the address or the name 'bob'"),
        (("credit", "ann@example.com", "XYZ", "1", "--why", "x"), 1, "no asset XYZ"),
        (("credit", "ann@example.com", "USD", "0.001", "--why", "x"), 1, "0.001 is no amount of USD"),
        (("credit", "ann@example.com", "USD", "-5", "--why", "x"), 2, "'-5' is not an amount above 0"),
        (("credit", "ann@example.com", "USD", "1e400", "--why", "x"), 2, "'1e400' is not an amount above 0 and below"),
        (("credit", "ann@example.com", "USD", "NaN", "--why", "x"), 2, "'NaN' is not an amount above 0"),
        (("credit", "ann@example.com", "USD", "much", "--why", "x"), 2, "'much' is not a number"),
        (("credit", "ann@example.com", "USD", "5"), 2, "Missing option '--why'"),
        (("reverse", "7", "--why", "x"), 1, "no transfer 7"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason_and_nothing_is_written(call, words, code, reason):
    assert reason in call("ledger", *words, code=code).output
    assert db.rows("select (select count(*) from transfer) + (select count(*) from audit)") == [(0,)]
