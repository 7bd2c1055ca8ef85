"""Run history, events, positions: what the engine itself remembers."""


def up(migrator, db):
    db.execute_sql(
        """
        -- The partitions of a table, and from when until before when each holds rows; not the default one.
        create function partition_spans(parent text) returns table (name text, since timestamptz, until timestamptz)
        language sql stable as $$
          select c.relname::text, substring(b.bounds from 'FROM [(]''([^'']+)''')::timestamptz,
                 substring(b.bounds from 'TO [(]''([^'']+)''')::timestamptz
          from pg_inherits i join pg_class c on c.oid = i.inhrelid,
               pg_get_expr(c.relpartbound, c.oid) as b(bounds)
          where i.inhparent = parent::regclass and b.bounds <> 'DEFAULT'
        $$;

        create function make_partition(parent text, day date, days_each int) returns bigint
        language plpgsql as $$
        -- One for the days from `day` on, days_each or as many as are free, and into it what of these days lies in the
        -- default partition; returns how many rows. While they lie there, it cannot become a partition.
        declare
          name text := parent || '_' || to_char(day, 'YYYYMMDD');
          "column" text := substring(pg_get_partkeydef(parent::regclass) from '[(]([a-z_]+)[)]');
          until timestamptz; rescued bigint;
        begin
          select least(day + days_each, min(s.since)) into until from partition_spans(parent) s where s.since > day;
          execute format('lock table %%I in access exclusive mode', parent || '_rest');
          execute format('create table %%I (like %%I including defaults including constraints including indexes)',
                         name, parent);
          execute format('with gone as (delete from %%1$I where %%2$I >= $1 and %%2$I < $2 returning *)
                          insert into %%3$I select * from gone', parent || '_rest', "column", name)
            using day::timestamptz, until;
          get diagnostics rescued = row_count;
          execute format('alter table %%I attach partition %%I for values from (%%L) to (%%L)',
                         parent, name, day::timestamptz, until);
          return rescued;
        end $$;

        create function make_partitions(parent text, days_ahead int, days_each int default 1) returns int
        language plpgsql as $$
        -- For the days from today on that have none; returns how many were missing.
        declare d date; made int := 0;
        begin
          for d in select g::date from generate_series(current_date, current_date + days_ahead, interval '1 day') g
          loop
            if not exists (select from partition_spans(parent) s where s.since <= d and s.until > d) then
              perform make_partition(parent, d, days_each);
              made := made + 1;
            end if;
          end loop;
          return made;
        end $$;

        create table run (
          entry text not null, due_at timestamptz not null, attempt int not null check (attempt > 0),
          run_id text not null, job text not null, queue text not null, arguments jsonb not null,
          enqueued_at timestamptz, started_at timestamptz, ended_at timestamptz not null,
          outcome text not null check (outcome in
            ('ok', 'failed', 'retried', 'lost', 'yielded', 'handed_back', 'refused')),
          counts jsonb, worker text, error text, fingerprint text, code_version text,
          dead boolean not null default false, settled_at timestamptz,
          primary key (entry, due_at, attempt, run_id)
        ) partition by range (due_at);
        create index run_ended on run (entry, ended_at desc);
        create index run_dead on run (fingerprint, ended_at) where dead and settled_at is null;
        create table run_rest partition of run default;

        create table skip (
          entry text not null, reason text not null, first_due_at timestamptz not null,
          last_due_at timestamptz not null, count int not null check (count > 0),
          primary key (entry, reason, first_due_at)
        );

        create table entry (
          name text primary key, last_due_at timestamptz,
          cadence text, paused boolean not null default false, version bigint not null default 0
        ) with (fillfactor = 50);

        create table audit (
          id bigint generated always as identity primary key, at timestamptz not null default now(),
          who text not null, action text not null, target text not null, old jsonb, new jsonb
        );

        create table event (
          id bigint generated always as identity, xid xid8 not null default pg_current_xact_id(),
          created_at timestamptz not null default now(), topic text not null, user_id bigint,
          payload jsonb not null, primary key (created_at, id)
        ) partition by range (created_at);
        create index event_position on event (xid, id);
        create table event_rest partition of event default;

        create table reader_position (
          reader text primary key, xid xid8 not null, id bigint not null,
          cluster bigint not null default ((pg_control_system()).system_identifier)  -- whose transactions xid counts
        );

        select make_partitions('run', 7), make_partitions('event', 7);
        """
    )
