"""What each outside service was asked for, by calendar day and month."""


def up(migrator, db):
    db.execute_sql(
        """
        create table provider_usage (
          provider text not null, period text not null check (period in ('day', 'month')),
          started_at timestamptz not null, used bigint not null check (used >= 0),
          primary key (provider, period, started_at)
        ) with (fillfactor = 50);
        """
    )
