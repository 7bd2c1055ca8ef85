"""Arguments that many commands have: who says it and why, numbers and instants that can be."""

from __future__ import annotations

import getpass
import importlib
from collections.abc import Iterator

import click

import db
from cli.arguments import for_audit, me
from cli.main import COMMANDS


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command, by its words."""
    for name, place in COMMANDS.items():
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
