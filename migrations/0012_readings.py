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
          about text check (length(about) <= 300),  -- of an event: what it is, in words
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
        """
    )
