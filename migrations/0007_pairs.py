"""Assets and the pairs in which the served app's exchange trades them."""


def up(migrator, db):
    db.execute_sql(
        """
        create table asset (
          code text collate "C" primary key check (code ~ '^[A-Z0-9][A-Z0-9._-]{0,15}$'),
          scale smallint not null check (scale between 0 and 30),  -- decimal places of its smallest unit
          created_at timestamptz not null default now()
        );
        create table pair (
          symbol text collate "C" primary key check (symbol ~ '^[A-Z0-9][A-Z0-9._:-]{0,23}$'),
          base text collate "C" not null references asset, quote text collate "C" not null references asset,
          tick_size numeric not null check (tick_size > 0 and tick_size < 1e15),  -- of a price, in the quote asset
          step_size numeric not null check (step_size > 0 and step_size < 1e15),  -- of a quantity, in the base asset
          active boolean not null default true, created_at timestamptz not null default now(),
          check (base <> quote)
        );
        """
    )
