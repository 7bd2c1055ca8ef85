"""What is generated from the code is what the code says."""

from __future__ import annotations

import pytest

import db
from cli.docs import models, pages
from cli.migrate import grant


def test_generated_files_are_up_to_date() -> None:
    old = [path.name for path, text in pages().items() if not path.is_file() or path.read_text() != text]
    assert not old, "run `nightdesk docs`"


@pytest.mark.usefixtures("database")
def test_the_apps_role_may_do_what_the_contract_says_and_no_more() -> None:
    grant()
    granted: dict[str, set[str]] = {}
    for table, privilege in db.rows(
        """select table_name, lower(privilege_type) from information_schema.role_table_grants
           where grantee = 'nightdesk_app'"""
    ):
        granted.setdefault(table, set()).add(privilege)
    promised = {m._meta.table_name: set(m.app_may.split(", ")) for m in models() if m.app_may}
    assert granted == promised
