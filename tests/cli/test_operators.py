"""Who gets in, from a shell, against a real PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

import db
from cli.main import nightdesk as command
from models import operators


@pytest.fixture
def call(database: object) -> Callable[..., Result]:
    """Run a command in this process; it opens and closes the connection."""
    db.database.close()

    def run(*words: str, code: int = 0, given: str | None = None) -> Result:
        result = CliRunner().invoke(command, list(words), input=given, catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    return run


def sql(statement: str) -> list[tuple[object, ...]]:
    with db.database.connection_context():
        return db.rows(statement)


def opens(name: str, password: str) -> bool:
    with db.database.connection_context():
        return operators.open_session(name, password) is not None


def test_a_new_operator_gets_a_password_that_is_shown_once_and_kept_as_a_hash(call: Callable[..., Result]) -> None:
    said = call("operators", "add", "ann", "--role", "viewer", "--who", "root").output
    password = said.split()[-1]
    assert said.startswith("ann may log in as viewer; password, shown this once: ")
    assert len(password) >= 16
    assert opens("ann", password)
    assert password not in str(sql("select * from operator")) + str(sql("select * from audit"))
    assert sql("select who, action, target, new from audit") == [("root", "operator", "ann", {"role": "viewer"})]


def test_a_password_may_come_from_standard_input(call: Callable[..., Result]) -> None:
    assert "password" not in call("operators", "add", "ann", "--password-stdin", given="correct horse\n").output
    assert opens("ann", "correct horse")
    assert "at least 10" in call("operators", "add", "ann", "--password-stdin", given="short\n", code=1).output
    assert opens("ann", "correct horse")


def test_the_first_operator_is_made_where_there_is_nobody_and_only_there(call: Callable[..., Result]) -> None:
    assert "operator may log in" in call("operators", "add", "operator", "--first").output
    assert call("operators", "add", "operator", "--first").output == ""
    call("operators", "rm", "operator")
    assert call("operators", "add", "operator", "--first").output == ""
    assert sql("select count(*) from audit") == [(2,)]


def test_who_is_removed_is_shut_out_and_listed_as_such(call: Callable[..., Result]) -> None:
    password = call("operators", "add", "ann").output.split()[-1]
    call("operators", "rm", "ann", "--who", "root")
    assert not opens("ann", password)
    (row,) = json.loads(call("operators", "list", "--json").output)
    assert (row["name"], row["role"]) == ("ann", "operator")
    assert row["disabled_at"]
    assert "password" not in row
    assert "no 'bob'" in call("operators", "rm", "bob", code=1).output


def test_a_name_that_is_none_is_refused(call: Callable[..., Result]) -> None:
    for name in ("", "a b", "<b>", "x" * 65, "ann\n"):
        assert "a name has up to 64" in call("operators", "add", name, code=1).output


def test_a_token_is_shown_once_listed_without_itself_and_revoked(call: Callable[..., Result]) -> None:
    token = call("tokens", "add", "prometheus", "--scope", "metrics", "--days", "30", "--who", "root").output.split()[
        -1
    ]
    with db.database.connection_context():
        assert operators.token_scope(token) == "metrics"
    listed = call("tokens", "list", "--json").output
    assert token not in listed
    assert json.loads(listed)[0]["expires_at"]
    call("tokens", "rm", "prometheus", "--who", "root")
    with db.database.connection_context():
        assert operators.token_scope(token) is None
    assert sql("select who, action, target from audit") == [("root", "token", "prometheus")] * 2
    assert "no 'x'" in call("tokens", "rm", "x", code=1).output
    assert call("tokens", "add", "x", "--scope", "everything", code=2)
    for nameless in ("", "x" * 65):
        assert "a name has up to 64 letters" in call("tokens", "add", nameless, "--scope", "read", code=1).output
