"""Stocks: who wants which, quotes with their day, daily bars, splits, dividends, earnings, and what was doubted."""


def up(migrator, db):
    db.execute_sql(
        """
        -- What the app's users watch and hold; the symbols are followed because they stand here.
        create table watchlist_item (
          user_id bigint not null references app_user,
          symbol text collate "C" not null check (symbol ~ '^[A-Z0-9][A-Z0-9._:-]{0,23}$'),
          active boolean not null default true, created_at timestamptz not null default now(),
          primary key (user_id, symbol)
        );
        create index watchlist_item_symbol on watchlist_item (symbol) where active;
        create index watchlist_item_new on watchlist_item (created_at);
        create table portfolio_item (
          user_id bigint not null references app_user,
          symbol text collate "C" not null check (symbol ~ '^[A-Z0-9][A-Z0-9._:-]{0,23}$'),
          quantity numeric not null check (quantity >= 0 and quantity < 1e15),
          created_at timestamptz not null default now(),
          primary key (user_id, symbol)
        );
        create index portfolio_item_symbol on portfolio_item (symbol) where quantity > 0;
        create index portfolio_item_new on portfolio_item (created_at);

        create table stock (
          symbol text collate "C" primary key references instrument on delete cascade, market text not null,
          state text not null default 'new' check (state in ('new', 'listed', 'unknown')),
          refused int not null default 0 check (refused >= 0),  -- times in a row that no source knew it
          ask_at timestamptz not null default '-infinity',  -- not asked for before
          asked_at timestamptz, bars_at timestamptz, fundamentals_at timestamptz, dividends_at timestamptz,
          splits_at timestamptz, looked_at timestamptz, checked_at timestamptz,  -- when each was last asked for
          bars_from date,  -- since when a source was asked for its bars and answered, at the furthest
          known_at timestamptz, error text,
          renamed_to text collate "C", renamed_by text,  -- its name now, as a source says
          check ((renamed_to is null) = (renamed_by is null)),
          check ((state = 'unknown') = (refused > 0)),
          check (state <> 'listed' or known_at is not null)
        ) with (fillfactor = 50);

        -- No source of ours gives bid and ask: they are null. market_cap is last times the shares in `fundamental`.
        create table stock_quote (
          symbol text collate "C" primary key references stock on delete cascade,
          last numeric not null check (last > 0 and last < 1e15), open numeric, high numeric, low numeric,
          previous_close numeric check (previous_close > 0), volume bigint check (volume >= 0), bid numeric,
          ask numeric, market_cap numeric, currency text,
          change numeric generated always as (last - previous_close) stored,
          percent numeric generated always as (round((last / previous_close - 1) * 100, 4)) stored,
          source text not null, happened_at timestamptz not null, received_at timestamptz not null,
          check (low <= high)
        ) with (fillfactor = 50);

        -- Prices and volume in the shares of their day; factors are apart, and `adjusted_bar` brings them together.
        create table daily_bar (
          symbol text collate "C" not null, date date not null, open numeric not null check (open > 0),
          high numeric not null check (high > 0), low numeric not null check (low > 0),
          close numeric not null check (close > 0 and close < 1e15), volume bigint check (volume >= 0),
          source text not null, received_at timestamptz not null,
          primary key (symbol, date), check (low <= high)
        );
        create table split (
          symbol text collate "C" not null, date date not null, ratio numeric not null check (ratio > 0 and ratio <> 1),
          source text not null, received_at timestamptz not null, primary key (symbol, date)
        );
        create table dividend (
          symbol text collate "C" not null, ex_on date not null, amount numeric not null check (amount > 0),
          declared_on date, recorded_on date, paid_on date, source text not null, received_at timestamptz not null,
          primary key (symbol, ex_on)
        );
        create table fundamental (
          symbol text collate "C" primary key, name text, exchange text, currency text, country text, sector text,
          industry text, market_cap numeric, shares numeric, pe numeric, eps numeric, book_value numeric,
          dividend_share numeric, dividend_yield numeric, profit_margin numeric, beta numeric, high_52w numeric,
          low_52w numeric, quarter_on date, source text not null, received_at timestamptz not null
        );
        create table earnings_report (
          symbol text collate "C" not null, report_on date not null, fiscal_end_on date,
          hour text check (hour in ('before open', 'after close', 'while open')), estimate numeric,
          source text not null, received_at timestamptz not null, primary key (symbol, report_on)
        );

        -- A price that cannot be: kept with its reason, never data, never deleted, until an operator accepts it.
        create table quarantined (
          id bigint generated always as identity primary key, symbol text collate "C" not null,
          kind text not null check (kind in ('quote', 'bar')), source text not null, happened_at timestamptz not null,
          reason text not null, value jsonb not null, neighbours jsonb not null,
          first_received_at timestamptz not null, last_received_at timestamptz not null,
          times int not null default 1 check (times > 0), accepted_at timestamptz, accepted_by text,
          check ((accepted_at is null) = (accepted_by is null))
        );
        create unique index quarantined_once on quarantined (symbol, kind, source, happened_at, md5(value::text));
        create index quarantined_open on quarantined (id) where accepted_at is null;

        -- What the nightly look found wrong in the daily bars, and what became of it.
        create table bar_gap (
          symbol text collate "C" not null, date date not null,
          problem text not null check (problem in ('missing', 'wrong')),
          found_at timestamptz not null, tries int not null default 0 check (tries >= 0), error text,
          was jsonb, became jsonb, healed_at timestamptz,
          primary key (symbol, date, found_at)
        );
        create unique index bar_gap_open on bar_gap (symbol, date) where healed_at is null;

        -- The last session of a stock that had opened by then, and the day of the one before it, however long ago.
        create function session_at(of text, at timestamptz)
        returns table (date date, opens_at timestamptz, before_on date)
        language sql stable parallel safe as $$
          select k.date, k.opens_at, (
            select b.date from market_session b where b.market = k.market and b.date < k.date and b.opens_at is not null
            order by b.date desc limit 1)
          from stock s cross join lateral (
            select * from market_session k where k.market = s.market and k.opens_at <= at and k.date <= at::date + 1
            order by k.date desc limit 1) k
          where s.symbol = of
        $$;
        """
    )
    db.execute_sql(ADJUSTED)


# Twenty digits are kept: a product of a hundred factors would otherwise have thousands. What is declared for a day to
# come has changed no price yet. A dividend is in the shares of its day: what is taken from the close before is so, too.
ADJUSTED = """
create function times(numeric, numeric) returns numeric immutable strict parallel safe language sql
  as $$ select round($1 * $2, 20) $$;
create aggregate product(numeric) (sfunc = times, stype = numeric, initcond = 1);

create view adjusted_bar as
with action as (
  select symbol, date, ratio, 1::numeric as kept from split where date <= (now() at time zone 'UTC')::date
  union all
  select d.symbol, d.ex_on, 1, 1 - d.amount * s.ratio / b.close
  from dividend d cross join lateral (
    select date, close from daily_bar where symbol = d.symbol and date < d.ex_on order by date desc limit 1) b
    cross join lateral (
      select product(ratio) as ratio from split where symbol = d.symbol and date > b.date and date <= d.ex_on) s
  where d.amount * s.ratio < b.close and d.ex_on <= (now() at time zone 'UTC')::date
), factor as (
  select symbol, date, product(ratio) as ratio, product(kept) as kept from action group by symbol, date
), known as (
  select symbol, date, b.open, b.high, b.low, b.close, b.volume, b.source, b.received_at,
         product(coalesce(f.ratio, 1)) over later as ratio, product(coalesce(f.kept, 1)) over later as kept
  from daily_bar b full join factor f using (symbol, date)
  window later as (partition by symbol order by date desc rows between unbounded preceding and 1 preceding)
)
select symbol, date, round(open / ratio * kept, 8) as open, round(high / ratio * kept, 8) as high,
       round(low / ratio * kept, 8) as low, round(close / ratio * kept, 8) as close,
       round(volume * ratio)::bigint as volume, 1 / ratio as split_factor, kept as dividend_factor, source, received_at
from known where close is not null
"""
