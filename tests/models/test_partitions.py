"""Partitions made ahead and dropped by age."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

import db
from domain.failures import Unavailable
from models import partitions

TICK = (
    "insert into tick (symbol, happened_at, received_at, price, source, fresh) values ('BTCUSD', %s, %s, 1, 'x', true)"
)
READ = "lock table tick in access share mode"  # as a backup does, for as long as it runs


@pytest.fixture
def rolled_back(database):
    with database.atomic() as transaction:
        yield
        transaction.rollback()


def names() -> set[str]:
    return {
        n for (n,) in db.rows("select inhrelid::regclass::text from pg_inherits where inhparent = 'tick'::regclass")
    }


def test_a_week_is_made_ahead_once(rolled_back):
    partitions.make_ahead("tick", 1)
    assert partitions.make_ahead("tick", 1, 9) == 2
    assert partitions.make_ahead("tick", 1, 9) == 0


def test_what_is_kept_for_years_has_no_more_partitions_than_what_is_kept_for_days(rolled_back):
    for name in names() - {"tick_rest"}:
        db.rows(f"drop table {name}")
    db.rows(
        "insert into tick (symbol, happened_at, received_at, price, source, fresh)"
        " select 'BTCUSD', now() - n * interval '5 days', now() - n * interval '5 days', 1, 'x', true"
        " from generate_series(0, 729) n"
    )
    counts = partitions.tidy("tick", 3650, datetime.now(UTC) - timedelta(days=3650))
    assert (counts["strays"], counts["dropped"]) == (730, 0)
    assert len(names()) <= 15
    assert db.rows("select count(*) from tick_rest") == [(0,)]
    assert partitions.tidy("tick", 3650, datetime.now(UTC) - timedelta(days=365))["dropped"] >= 10
    assert db.rows("select count(*) > 73, count(*) < 73 + 2 * 304 / 5 from tick") == [(True, True)]


def test_partitions_of_another_width_fit_in_between_those_that_are_there(rolled_back):
    last = datetime.now(UTC).replace(hour=12) + timedelta(days=60)
    db.rows(TICK, last, last)
    partitions.rescue_strays("tick", 1)
    partitions.make_ahead("tick", 20, 90)
    spans = db.rows("select since, until from partition_spans('tick') order by since")
    assert all(until == since for (_, until), (since, _) in pairwise(spans))
    assert spans[-1][1] >= datetime.now(UTC) + timedelta(days=90)


def test_rows_that_found_no_partition_are_moved_however_long_that_takes(rolled_back, monkeypatch):
    last, rows, limits = datetime.now(UTC) + timedelta(days=20), db.rows, []
    rows(TICK, last, last)

    def watched(sql, *parameters):
        if "make_partition(" in sql:
            limits.append(rows("show statement_timeout"))
        return rows(sql, *parameters)

    monkeypatch.setattr(db, "rows", watched)
    assert partitions.rescue_strays("tick", 1) == 1
    assert limits == [[("0",)]]


def test_rows_that_found_no_partition_are_moved_into_one_of_their_day(rolled_back):
    last = datetime.now(UTC).replace(hour=12) + timedelta(days=20)
    for day in (0, 0, 1):
        at = last + timedelta(days=day)
        db.rows(TICK, at, at + timedelta(microseconds=len(db.rows("select 1 from tick"))))
    assert db.rows("select count(*) from tick_rest") == [(3,)]
    assert partitions.rescue_strays("tick", 1) == 3
    assert db.rows("select count(*) from tick_rest") == [(0,)]
    assert db.rows("select count(*) from tick") == [(3,)]
    assert f"tick_{last:%Y%m%d}" in names()
    assert partitions.rescue_strays("tick", 1) == 0
    db.rows(TICK, last, last + timedelta(seconds=1))  # goes to the rescued partition, with an id of its own
    assert db.rows("select count(distinct id), count(*) from tick") == [(4, 4)]


def test_only_partitions_wholly_before_the_limit_are_dropped(rolled_back):
    db.rows("create table tick_20200101 partition of tick for values from ('2020-01-01') to ('2020-01-02')")
    db.rows("create table tick_20200102 partition of tick for values from ('2020-01-02') to ('2020-01-03')")
    before = names()
    assert partitions.drop_older("tick", datetime(2020, 1, 2, 23, tzinfo=UTC)) == 1
    assert before - names() == {"tick_20200101"}


@pytest.fixture
def reader(database, monkeypatch):
    """A connection of somebody else's."""
    from psycopg2 import connect

    monkeypatch.setattr(partitions, "PATIENCE", "50ms")
    other = connect(**db.database.connect_params, dbname=db.database.database)
    yield other
    other.close()


def test_a_table_in_use_is_dropped_another_time_and_nobody_waits_long(reader):
    db.rows("create table tick_20200101 partition of tick for values from ('2020-01-01') to ('2020-01-02')")
    reader.cursor().execute(READ)
    with pytest.raises(Unavailable, match="tick_20200101 is in use"):
        partitions.drop_older("tick", datetime(2020, 1, 3, tzinfo=UTC))
    reader.rollback()
    assert partitions.drop_older("tick", datetime(2020, 1, 3, tzinfo=UTC)) == 1


def test_with_nothing_to_do_nobody_is_waited_for(reader):
    partitions.make_ahead("tick", 1)
    reader.cursor().execute(READ)
    assert partitions.tidy("tick", 1, datetime(2020, 1, 3, tzinfo=UTC)) == {"made": 0, "dropped": 0, "strays": 0}


def test_room_in_a_table_in_use_is_made_another_time(rolled_back, reader):
    reader.cursor().execute(READ)
    with pytest.raises(Unavailable, match="tick is in use"):
        partitions.make_ahead("tick", 1, 20)
    reader.rollback()
    assert partitions.make_ahead("tick", 1, 20) >= 13


def test_the_strays_of_a_table_in_use_are_moved_another_time(rolled_back, reader):
    at = datetime(2200, 1, 1, 12, tzinfo=UTC)
    db.rows(TICK, at, at)
    reader.cursor().execute(READ)
    with pytest.raises(Unavailable, match="tick is in use"):
        partitions.rescue_strays("tick", 1)
    reader.rollback()
    assert partitions.rescue_strays("tick", 1) == 1
