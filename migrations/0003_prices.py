"""Prices: instruments, the newest quote of each, and every observation as a tick."""


def up(migrator, db):
    db.execute_sql(
        """
        create table instrument (
          symbol text collate "C" primary key check (symbol ~ '^[A-Z0-9][A-Z0-9._:-]{0,23}$'),
          kind text not null check (kind in ('crypto', 'fx', 'metal', 'stock', 'index', 'other')),
          max_age interval check (max_age > interval '0'),  -- null: as long as the price's source allows
          tick_size numeric check (tick_size > 0 and tick_size < 1e15),
          active boolean not null default true,
          created_at timestamptz not null default now()
        );

        -- One row per instrument from its first day on, so that whoever needs the price can lock it.
        -- Updated every few seconds: half-empty pages and no index on what changes keep the updates in place.
        create table quote (
          symbol text collate "C" primary key references instrument on delete cascade,
          state text not null default 'missing' check (state in ('missing', 'fresh', 'stale')),
          reason text check (reason in ('old', 'rejected')),  -- why it is stale
          price numeric check (price > 0 and price < 1e15), source text,
          happened_at timestamptz, received_at timestamptz,
          said_at timestamptz,  -- by the source's clock: later than happened_at where that runs ahead of ours
          stale_at timestamptz,  -- from then on the price is old, whether or not anybody has said so yet
          previous numeric, previous_source text,  -- the last price that was another one
          previous_happened_at timestamptz, previous_received_at timestamptz,
          error text, failing_since timestamptz,  -- the latest failure, until an answer comes
          check ((error is null) = (failing_since is null)),
          check ((state = 'missing') = (price is null)),
          check ((state = 'stale') = (reason is not null)),
          check ((price is null) = (source is null) and (price is null) = (happened_at is null)
                 and (price is null) = (received_at is null) and (price is null) = (stale_at is null)
                 and (price is null) = (said_at is null)),
          check ((previous is null) = (previous_source is null) and (previous is null) = (previous_happened_at is null)
                 and (previous is null) = (previous_received_at is null))
        ) with (fillfactor = 50);

        create table tick (
          symbol text collate "C" not null, happened_at timestamptz not null, received_at timestamptz not null,
          price numeric not null check (price > 0 and price < 1e15), previous numeric, source text not null,
          changed boolean not null default true,  -- false: the same price again
          fresh boolean not null,  -- false: it was old news when it came
          id bigint generated always as identity, xid xid8 not null default pg_current_xact_id(),
          primary key (symbol, happened_at, received_at)
        ) partition by range (received_at);
        create index tick_position on tick (xid, id);
        create table tick_rest partition of tick default;
        select make_partitions('tick', 7);

        insert into instrument (symbol, kind, tick_size) values
          ('XAUUSD', 'metal', 0.01), ('XAGUSD', 'metal', 0.001), ('EURUSD', 'fx', 0.00001),
          ('GBPUSD', 'fx', 0.00001), ('USDJPY', 'fx', 0.001), ('BTCUSD', 'crypto', 0.01);
        insert into quote (symbol) select symbol from instrument;
        """
    )
