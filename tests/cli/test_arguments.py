"""Arguments that many commands have: who says it and why, numbers and instants that can be."""

from __future__ import annotations

import getpass
import importlib
from collections.abc import Iterator

import click
import pytest

import cli.main
import db
from cli.arguments import for_audit, me


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command, by its words."""
    for name, place in cli.main.COMMANDS.items():
        module, attribute = place.split(":")
        command = getattr(importlib.import_module(module), attribute)
        within = getattr(command, "commands", {})
        yield from ((f"{name} {word}", one) for word, one in within.items())
        if not within:
            yield name, command


def test_who_says_it_and_why_are_words_and_not_many_on_every_command(call):
    said = [option for _, command in commands() for option in command.params if option.name in ("who", "why")]
    assert len(said) > 20
    assert {option.callback for option in said} == {for_audit}
    for words in ("", " ", "x" * 201):
        assert "1 to 200 characters" in call("pause", "sync_prices", "--who", words, code=2).output
        assert "1 to 200 characters" in call("ledger", "reverse", "1", "--why", words, code=2).output
    call("operators", "add", "bob", "--who", " ann ")
    assert db.rows("select who from audit") == [("ann",)]


def test_an_account_without_a_name_is_called_by_its_number(monkeypatch):
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 12345)
    assert me() == "uid 12345"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("simulate --from 9999-12-31", "'9999-12-31' is not of the years 1600 to 2999"),
        ("sessions list --from 0001-01-01", "of the years 1600 to 2999"),
        ("candles show BTCUSDT 1M --count 10000 --to 0001-01-01", "of the years 1600 to 2999"),
        ("candles show BTCUSDT 1m --as-of 9999-12-31", "of the years 1600 to 2999"),
        ("stocks gaps --days 99999999999", "1<=x<=3660"),
        ("ledger of ann --limit -5", "1<=x<=10000"),
        ("deposits list --limit 100000000000000000000", "1<=x<=10000"),
        ("notifications why ann --limit 100000000000000000000", "1<=x<=10000"),
        ("orders expire 100000000000000000000 --filled 1 --why x", "0<=x<=9223372036854775807"),
        ("deposits rescan ethereum 100000000000000000000 --why x", "1<=x<=9223372036854775807"),
        ("schedule --next -5", "1<=x<=100"),
        ("schedule --next 100000", "1<=x<=100"),
    ],
)
def test_what_is_out_of_all_bounds_is_refused_as_it_is_read(call, words, reason):
    assert reason in call(*words.split(), code=2).output


def test_the_first_instant_that_can_be_said_leaves_room_for_what_is_counted_from_it(call):
    assert (
        "no 1M candles" in call("candles", "show", "X", "1M", "--to", "1600-01-01", "--count", "10000", code=1).output
    )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("deposits list --user nobody", "no user has the address or the name 'nobody'"),
        ("deposits rescan polygon 10 --why x", "polygon has not been read yet"),
        ("deposits list --chain nosuch", "no chain 'nosuch': one of bitcoin, "),
        ("alerts list --user nobody@example.com", "no user has the address or the name 'nobody@example.com'"),
    ],
)
def test_what_nobody_knows_is_refused_and_no_empty_table(call, words, reason):
    assert reason in call(*words.split(), code=1).output


def test_a_value_that_is_out_of_range_all_the_same_is_one_line(database, monkeypatch, capsys):
    for fails in (lambda **_: db.rows("select %s::bigint", 10**20), lambda **_: int(float("inf"))):
        monkeypatch.setattr(cli.main, "nightdesk", fails)
        with pytest.raises(SystemExit) as end:
            cli.main.main()
        assert end.value.code == 2
        assert capsys.readouterr().err.startswith("nightdesk: a value is out of range: ")
