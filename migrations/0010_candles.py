"""Trades of the served app's exchange, and candles made of trades and ticks."""


def up(migrator, db):
    db.execute_sql(TIME)
    db.execute_sql(
        """
        -- Written by the served app, never changed: a trade that was wrong is corrected by another row of the same
        -- symbol and instant that takes its place; one with quantity 0 cancels it. A correction can be corrected.
        create table trade (
          symbol text collate "C" not null references pair, traded_at timestamptz not null default now(),
          price numeric not null check (price > 0 and price < 1e15),
          quantity numeric not null check (quantity >= 0 and quantity < 1e15),
          side text not null check (side in ('buy', 'sell')),  -- of who took the offer
          corrects bigint,  -- the id of the trade in whose place this one is
          received_at timestamptz not null default now(),
          id bigint generated always as identity, xid xid8 not null default pg_current_xact_id(),
          primary key (symbol, traded_at, id),
          check (quantity > 0 or corrects is not null),
          check (traded_at < received_at + interval '15 minutes'),  -- clocks differ, but not by more
          check (traded_at >= timestamptz '2000-01-01 00:00Z')  -- one of -infinity or before Christ would stop all
        ) partition by range (traded_at);
        create index trade_position on trade (xid, id);
        create index trade_time on trade (traded_at);
        create unique index trade_correction on trade (symbol, traded_at, corrects) where corrects is not null;
        create table trade_rest partition of trade default;
        select make_partitions('trade', 7);
        select make_partition('trade', date '2000-01-01', 100000);  -- up to today: a history can be brought in at once

        -- Not a foreign key: partitions that hold keys of others could not be dropped by age.
        create function check_correction() returns trigger language plpgsql as $$
        begin
          if not exists (select from trade t
                         where t.symbol = new.symbol and t.traded_at = new.traded_at and t.id = new.corrects) then
            raise foreign_key_violation using message = format(
              'no trade %%s of %%s at %%s: a correction has symbol and traded_at of the trade that it corrects',
              new.corrects, new.symbol, new.traded_at);
          end if;
          return new;
        end $$;
        create trigger trade_correction before insert on trade
          for each row when (new.corrects is not null) execute function check_correction();

        -- Only buckets in which something traded; candle_line() shows the others too.
        create table candle (
          symbol text collate "C" not null,
          "interval" text collate "C" not null
            check ("interval" in ('1m', '5m', '15m', '30m', '1h', '4h', '1d', '1w', '1M')),
          starts_at timestamptz not null, open numeric not null, high numeric not null, low numeric not null,
          close numeric not null, volume numeric not null, quote_volume numeric not null,
          trades bigint not null check (trades > 0),  -- of a price's candle: how many ticks
          known_at timestamptz not null,  -- when we received the last that is in it
          last_at timestamptz not null,  -- when the last that is in it happened
          primary key (symbol, "interval", starts_at),
          check (low > 0 and low <= open and low <= close and high >= open and high >= close),
          check (volume >= 0 and quote_volume >= 0),
          check (starts_at = candle_start("interval", starts_at))
        ) with (fillfactor = 80);

        -- The two streams that candles are made of, and how far. Before `kept_from` the single trades or ticks are
        -- gone, and the candles are all that is left.
        create table candle_feed (
          feed text primary key check (feed in ('trade', 'tick')),
          looked_at timestamptz,  -- when somebody last asked what had happened
          built_until timestamptz,  -- what reached us before is in the candles
          kept_from timestamptz not null default '-infinity'
        );
        insert into candle_feed (feed) values ('trade'), ('tick');
        insert into reader_position values ('build_candles.trade', '0', 0), ('build_candles.tick', '0', 0);

        -- When nobody looked (the desk was down), or in vain: an empty bucket in there is no silence of the market.
        create table outage (
          feed text not null references candle_feed, symbol text collate "C" not null,  -- * is all of the feed
          began_at timestamptz not null, ended_at timestamptz check (ended_at > began_at),  -- null: it lasts
          primary key (feed, symbol, began_at)
        );
        create unique index outage_open on outage (feed, symbol) where ended_at is null;
        """
    )
    db.execute_sql(LINE)


TIME = """
create function candle_length(width text) returns interval language sql immutable parallel safe as $$
  select case width when '1m' then interval '1 minute' when '5m' then interval '5 minutes'
    when '15m' then interval '15 minutes' when '30m' then interval '30 minutes' when '1h' then interval '1 hour'
    when '4h' then interval '4 hours' when '1d' then interval '1 day' when '1w' then interval '7 days'
    when '1M' then interval '1 month' end
$$;

-- Weeks begin on Monday, months on the first, days at midnight UTC. A check of `candle` calls it, also while pg_restore
-- reads candles in without a search_path: so its body is no string, and names are looked up when it is made.
create function candle_start(width text, at timestamptz) returns timestamptz
language sql immutable parallel safe
return case width when '1M' then date_trunc('month', at at time zone 'UTC') at time zone 'UTC'
  else date_bin(candle_length(width), at, timestamptz '2000-01-03 00:00Z') end;

create function candle_end(width text, starts_at timestamptz) returns timestamptz
language sql immutable parallel safe as $$
  select (starts_at at time zone 'UTC' + candle_length(width)) at time zone 'UTC'
$$;
"""

LINE = """
-- Every bucket from the first one that has a candle to the last that we know of: one without trades has the close
-- before it, no volume, and is `synthetic`; if we were not looking all the while, it is an `outage` too. `closed`
-- means that all that reached us in time is in it. With `as_of`, nothing that reached us later; `instead` has
-- candles as they were at that instant, of buckets that have changed since.
create function candle_line(of text, width text, since timestamptz, until timestamptz,
                            as_of timestamptz default 'infinity', instead candle[] default '{}')
returns table (starts_at timestamptz, ends_at timestamptz, open numeric, high numeric, low numeric, close numeric,
               volume numeric, quote_volume numeric, trades bigint, known_at timestamptz, closed boolean,
               synthetic boolean, outage boolean)
language sql stable parallel safe as $$
  with was as materialized (
    select * from unnest(instead)
  ), feed as materialized (
    select f.feed, least(f.built_until, as_of) as built_until, least(s.first, w.first) as first,
           least(until, as_of, greatest(f.built_until, greatest(s.last, w.last) + interval '1 microsecond')) as reached
    from candle_feed f, (
      select min(c.starts_at) as first, max(c.starts_at) as last from candle c
      where c.symbol = of and c."interval" = width) s, (
      select min(w.starts_at) as first, max(w.starts_at) as last from was w) w
    where f.feed = case when exists (select from pair p where p.symbol = of) then 'trade' else 'tick' end
      and coalesce(s.first, w.first) is not null
  ), grid as (
    select f.feed, f.built_until, g at time zone 'UTC' as starts_at, candle_end(width, g at time zone 'UTC') as ends_at
    from feed f, generate_series(candle_start(width, greatest(since, f.first)) at time zone 'UTC',
                                 f.reached at time zone 'UTC', candle_length(width)) g
    where g at time zone 'UTC' < f.reached
  ), known as (
    select g.*, coalesce(c.open, w.open) as open, coalesce(c.high, w.high) as high, coalesce(c.low, w.low) as low,
           coalesce(c.close, w.close) as close, coalesce(c.volume, w.volume, 0) as volume,
           coalesce(c.quote_volume, w.quote_volume, 0) as quote_volume, coalesce(c.trades, w.trades, 0) as trades,
           coalesce(c.known_at, w.known_at) as known_at
    from grid g
      left join candle c on c.symbol = of and c."interval" = width and c.starts_at = g.starts_at and c.known_at <= as_of
      left join was w on w.starts_at = g.starts_at
  ), before as (
    select close from (
      (select c.starts_at, c.close from candle c
       where c.symbol = of and c."interval" = width and c.starts_at < candle_start(width, since)
         and c.known_at <= as_of
       order by c.starts_at desc limit 1)
      union all select w.starts_at, w.close from was w where w.starts_at < candle_start(width, since)) b
    order by b.starts_at desc limit 1
  ), carried as (
    select k.*, coalesce(first_value(k.close) over (partition by k.number order by k.starts_at), b.close) as last
    from (select *, count(close) over (order by starts_at) as number from known) k left join before b on true
  )
  select c.starts_at, c.ends_at, coalesce(c.open, c.last), coalesce(c.high, c.last), coalesce(c.low, c.last),
         c.last, c.volume, c.quote_volume, c.trades, c.known_at, coalesce(c.ends_at <= c.built_until, false),
         c.trades = 0, c.trades = 0 and exists (
           select from outage o where o.feed = c.feed and o.symbol in ('*', of) and o.began_at < c.ends_at
             and coalesce(o.ended_at, 'infinity') > c.starts_at)
  from carried c where c.last is not null order by c.starts_at
$$;
"""
