"""Readings: the values of whatever alerts are about besides prices, as a stream, and the newest of each."""


def up(migrator, db):
    db.execute_sql(
        """
        -- The newest value of each measure of a subject. A row without a value is asked for and has none yet.
        create table gauge (
          subject text collate "C" not null, measure text collate "C" not null,
          value numeric, previous numeric, happened_at timestamptz, received_at timestamptz,
          stale_at timestamptz,  -- from then on it is old; null: it never is
          source text, about text, created_at timestamptz not null default now(),
          primary key (subject, measure),
          check ((value is null) = (happened_at is null) and (value is null) = (received_at is null)
                 and (value is null) = (source is null))
        ) with (fillfactor = 50);

        -- In one measure of a subject each reading happened later than the one before it, and has the higher id.
        create table reading (
          subject text collate "C" not null, measure text collate "C" not null,
          happened_at timestamptz not null, received_at timestamptz not null,
          value numeric not null check (value > -1e15 and value < 1e15 or value = 'infinity'),  -- dates: since 1970
          previous numeric, source text not null,
          about text check (length(about) <= 300),  -- of an event or a change: what it is of
          changed boolean not null, fresh boolean not null,
          id bigint generated always as identity, xid xid8 not null default pg_current_xact_id(),
          primary key (subject, measure, happened_at, received_at)
        ) partition by range (received_at);
        create index reading_position on reading (xid, id);
        create table reading_rest partition of reading default;
        select make_partitions('reading', 7);

        -- What alerts look at: the ticks of instruments are the stream `price`.
        create view stream as
          select symbol as subject, 'price'::text collate "C" as stream, price as value, previous, happened_at,
                 received_at, source, null::text as about, changed, fresh, id, xid from tick
          union all
          select subject, measure, value, previous, happened_at,
                 received_at, source, about, changed, fresh, id, xid from reading;
        create view newest as
          select symbol as subject, 'price'::text collate "C" as stream, price as value, previous, happened_at,
                 received_at, source, null::text as about,
                 case when state = 'fresh' then stale_at else '-infinity' end as stale_at from quote
          union all
          select subject, measure, value, previous, happened_at,
                 received_at, source, about, coalesce(stale_at, 'infinity') from gauge;

        -- What a stream stood at at an instant, in the shares of a day. Of a stock's price the first that there is: the
        -- last tick of the session that is open, the official close of the one before, what a source told as its close,
        -- its last tick. Elsewhere, and where no sessions are known, the last value, which may be five days old.
        create function value_at(of text, name text, at timestamptz, day date,
                                 known_before timestamptz default 'infinity')
        returns table (value numeric, happened_at timestamptz)
        language sql stable parallel safe as $$
          select case r.ratio when 1 then v.value else round(v.value / r.ratio, 8) end, v.happened_at
          from (select) as one
               left join lateral (
                 select k.*, (
                   select case when n.opens_at <= at then n.opens_at end from market_session n
                   where n.market = k.market and n.date > k.date and n.opens_at is not null
                   order by n.date limit 1) as open_since
                 from stock s cross join lateral (
                   select * from market_session k
                   where k.market = s.market and k.closes_at <= at and k.date <= at::date + 1
                   order by k.date desc limit 1) k
                 where name = 'price' and s.symbol = of) c on true
               left join lateral (
                 select k.price as value, k.happened_at from tick k
                 where k.symbol = of and k.happened_at >= c.open_since and k.happened_at <= at
                   and k.received_at >= c.open_since and k.received_at < known_before
                 order by k.happened_at desc limit 1) o on true
               left join lateral (
                 select b.close as value, c.closes_at as happened_at, c.date from daily_bar b
                 where o.value is null and b.symbol = of and b.date = c.date offset 0) b on true
               left join lateral (
                 select q.previous_close as value, c.closes_at as happened_at,
                        (q.happened_at + interval '2 hours')::date as date
                 from stock_quote q
                 where coalesce(o.value, b.value) is null and q.symbol = of
                   and (select s.before_on from session_at(of, q.happened_at) s) = c.date offset 0) q on true
               left join lateral (
                 (select k.price as value, k.happened_at from tick k
                  where name = 'price' and coalesce(o.value, b.value, q.value) is null and k.symbol = of
                    and k.happened_at > coalesce(c.opens_at, at - interval '5 days') and k.happened_at <= at
                    and k.received_at > coalesce(c.opens_at, at - interval '5 days') and k.received_at < known_before
                  order by k.happened_at desc limit 1)
                 union all
                 (select r.value, r.happened_at from reading r
                  where name <> 'price' and r.subject = of and r.measure = name
                    and r.happened_at > at - interval '5 days' and r.happened_at <= at
                    and r.received_at > at - interval '5 days' and r.received_at < known_before
                  order by r.happened_at desc limit 1)) t on true
               cross join lateral (
                 select coalesce(o.value, b.value, q.value, t.value) as value,
                        coalesce(o.happened_at, b.happened_at, q.happened_at, t.happened_at) as happened_at,
                        coalesce(b.date, q.date, (coalesce(o.happened_at, t.happened_at) + interval '2 hours')::date)
                          as date) v
               cross join lateral (
                 select product(s.ratio) as ratio from split s
                 where s.symbol = of and s.date > v.date and s.date <= day) r
          where v.value is not null
        $$;
        """
    )
