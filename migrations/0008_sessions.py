"""Sessions: when each market is open, two years ahead, as a calendar library and operators say."""


def up(migrator, db):
    db.execute_sql(
        """
        create table market_session (
          market text not null check (market ~ '^[A-Z]{2,8}$'), date date not null,
          opens_at timestamptz, closes_at timestamptz,  -- null: an operator says that it stays closed
          break_from timestamptz, break_to timestamptz, half_day boolean not null default false,
          source text not null,  -- the library with its version, 'rule', or 'operator', who goes before the others
          note text, changed_at timestamptz not null default now(),
          primary key (market, date),
          check (opens_at < closes_at and (opens_at is null) = (closes_at is null)),
          check (opens_at is not null or (source = 'operator' and break_from is null and not half_day)),
          check ((break_from is null) = (break_to is null)
                 and opens_at < break_from and break_from < break_to and break_to < closes_at)
        );
        """
    )
