"""The operator's command, run in the tests' own process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from click.testing import Result


@pytest.fixture
def call(database: object) -> Callable[..., Result]:
    """`call("ledger", "check", code=1)`: the command opens and closes the connection itself."""
    from click.testing import CliRunner

    import db
    from cli.main import nightdesk as command

    def run(*words: str, code: int = 0) -> Result:
        db.database.close()
        result = CliRunner().invoke(command, list(words), catch_exceptions=False)
        assert result.exit_code == code, result.output
        db.database.connect(reuse_if_open=True)
        return result

    return run
