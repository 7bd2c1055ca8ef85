"""What is generated from the code is what the code says."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

import db
from cli.docs import jobs, models, pages, together
from cli.migrate import grant
from config import ROOT
from domain.prices import Price
from events import TOPICS
from jobs.alerts import check_alerts
from models import prices


def test_generated_files_are_up_to_date() -> None:
    old = [path.name for path, text in pages().items() if not path.is_file() or path.read_text() != text]
    assert not old, "run `nightdesk docs`"


def test_every_topic_that_the_code_writes_is_in_the_contract_and_none_besides() -> None:
    code = "\n".join(
        path.read_text() for folder in ("jobs", "models", "engine") for path in (ROOT / folder).glob("*.py")
    )
    subjects = {topic.partition(".")[0] for topic in TOPICS}
    written = set(re.findall(rf"""["']((?:{"|".join(subjects)})\.[a-z_]+)["']""", code))
    written |= set(re.findall(r"""(?:publish|add)\(\s*"([a-z_]+\.[a-z_]+)\"""", code))
    assert written | {"prices.fresh", "prices.missing", "prices.stale"} == set(TOPICS)  # these are put together


def test_a_job_with_several_entries_stands_with_all_their_cadences() -> None:
    (line,) = (row for row in jobs().splitlines() if row.startswith("| `sync_daily_bars`"))
    assert (
        "| after_close {XNYS,XLON,XHKG,XTKS,XBKK} 90m | `SYNC_DAILY_BARS_{XNYS,XLON,XHKG,XTKS,XBKK}_INTERVAL` |" in line
    )
    assert together(["every 1m", "every 1m"]) == "every 1m"
    assert together(["every 1m", "cron 1 2 * * * UTC"]) == "every 1m, cron 1 2 * * * UTC"
    assert together(["every 1m +1s", "every 2m +2s"]) == "every 1m +1s, every 2m +2s"
    assert together([]) == ""


@pytest.mark.usefixtures("database")
def test_the_apps_role_may_do_what_the_contract_says_and_no_more() -> None:
    grant()
    promised = {m._meta.table_name: m.app_may for m in models()}
    for (table,) in db.rows(
        """select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')
           and not relispartition"""
    ):
        for privilege in ("select", "insert", "update"):
            ((may,),) = db.rows("select has_any_column_privilege('nightdesk_app', %s, %s)", table, privilege)
            assert may == (privilege in promised.get(table, "")), f"{privilege} on {table}"
        may_delete = "delete" in promised.get(table, "")
        assert db.rows("select has_table_privilege('nightdesk_app', %s, 'delete')", table) == [(may_delete,)]


@pytest.mark.usefixtures("database")
def test_an_app_that_uses_the_contract_alone_gets_its_alert() -> None:
    grant()
    now = datetime.now(UTC)
    prices.record([Price("BTCUSD", Decimal(100), now, "binance")], {}, now)
    with db.transaction():
        db.rows("set local role nightdesk_app")
        ((user,),) = db.rows("insert into app_user (external_id, email) values ('u1', 'u1@example.org') returning id")
        for level in (90, 110):
            db.rows(
                "insert into alert (user_id, subject, condition, level) values (%s, 'BTCUSD', 'above', %s)", user, level
            )
        db.rows("insert into alert (user_id, subject, condition, level) values (%s, 'NOSUCH', 'above', 100)", user)
    counts = check_alerts(datetime.now(UTC))
    assert (counts["adopted"], counts["refused"]) == (2, 1)
    with db.transaction():
        db.rows("set local role nightdesk_app")
        assert db.rows("select level, status from alert order by level") == [
            (90, "triggered"),
            (100, "refused"),
            (110, "active"),
        ]
        assert "NOSUCH is not followed" in db.rows("select reason from alert where level = 100")[0][0]
        assert len(db.rows("select title from notification where user_id = %s", user)) == 1
        db.rows("update alert set status = 'removed' where level = 110")
    later = now + timedelta(seconds=1)
    prices.record([Price("BTCUSD", Decimal(120), later, "binance")], {}, later)
    assert check_alerts(datetime.now(UTC))["fired"] == 0
