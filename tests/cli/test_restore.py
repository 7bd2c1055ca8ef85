"""`nightdesk restore` from a shell; what it does is tested in tests/models/test_clusters.py."""

import json

import psycopg2
import pytest

import config
import db
from engine.overrides import Overrides
from models import clusters, events, orders
from scheduler import Scheduler


@pytest.fixture(autouse=True)
def elsewhere(database):
    """Positions that were made in another cluster."""
    list(orders.tell())
    db.rows("update reader_position set cluster = 1")


def test_the_refusal_says_what_to_do_and_restore_does_it_once(call):
    with pytest.raises(LookupError, match="`nightdesk restore`"):
        list(orders.tell())
    assert "tell_expired" in call("doctor", code=1).output
    rows = json.loads(call("restore", "--who", "ann", "--json").output)
    assert {row["what"] for row in rows} == {"build_candles.tick", "build_candles.trade", "tell_expired"}
    list(orders.tell())
    assert "nothing to do" in call("restore").output
    assert call("restore", "--json").output.strip() == "[]"
    assert db.rows("select who, action from audit") == [("ann", "restore")]


def test_the_table_has_streams_and_readers_with_what_they_were(call):
    db.rows("update reader_position set xid = '999999999999' where reader = 'tell_expired'")
    events.add("news", {}, None)
    output = call("restore").output
    assert "999999999999-0" in output
    assert "trade" in output


def test_while_somebody_writes_nothing_is_done(call, monkeypatch):
    monkeypatch.setattr(clusters, "PATIENCE", "100ms")
    writer = psycopg2.connect(config.settings.database_url)
    writer.cursor().execute("lock table trade in row exclusive mode")
    assert "nothing was done" in call("restore", code=1).output
    writer.close()
    assert clusters.foreign()


def test_the_release_step_and_a_scheduler_that_starts_name_the_command_until_it_was_run(call, redis, caplog):
    notice = "tell_expired stand still until `nightdesk restore` was run"
    assert notice in call("migrate").output
    for _ in range(2):
        Scheduler(()).look()
    overrides = Overrides()
    overrides.read(at_once=True), overrides.read(at_once=True)
    assert caplog.text.count(notice) == 3, "by each scheduler once"
    call("restore")
    caplog.clear()
    overrides.read(at_once=True)
    assert notice not in caplog.text
    assert notice not in call("migrate").output
