"""Tickers: the last 24 hours of every pair, kept up by what came and what left."""


def up(migrator, db):
    db.execute_sql(
        """
        -- Updated every few seconds: half-empty pages and no index on what changes keep the updates in place.
        create table ticker (
          symbol text collate "C" primary key references pair,
          open numeric, high numeric, low numeric,  -- null: nothing traded in 24 hours
          last numeric,  -- of the last trade, however long ago
          change numeric generated always as (last - open) stored,
          percent numeric generated always as (round((last - open) / open * 100, 4)) stored,
          volume numeric not null, quote_volume numeric not null, trades bigint not null check (trades >= 0),
          opened_at timestamptz, last_at timestamptz,  -- of the first trade in the window, and of the last
          check (volume >= 0 and quote_volume >= 0),
          check ((trades = 0) = (open is null) and (trades = 0) = (high is null) and (trades = 0) = (low is null)),
          check (trades = 0 or low <= open and low <= last and high >= open and high >= last)
        ) with (fillfactor = 50);

        -- Where the window of all tickers ends: they are of the 24 hours before.
        create table ticker_window (
          reader text primary key default 'build_tickers' check (reader = 'build_tickers'), until timestamptz
        );
        insert into ticker_window default values;

        -- The last price of a pair is a price as any other: alerts watch it.
        alter table instrument drop constraint instrument_kind_check, add constraint instrument_kind_check
          check (kind in ('crypto', 'fx', 'metal', 'stock', 'index', 'other', 'pair'));

        -- Trades that count: neither cancelled nor corrected.
        create view valid_trade as
        select t.* from trade t
        where t.quantity > 0 and not exists (
          select from trade c
          where c.symbol = t.symbol and c.traded_at = t.traded_at and c.corrects = t.id and c.corrects is not null);
        """
    )
