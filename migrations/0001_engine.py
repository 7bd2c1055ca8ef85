"""Run history, events, positions: what the engine itself remembers."""


def up(migrator, db):
    db.execute_sql(
        """
        create function make_partitions(parent text, days_ahead int, days_each int default 1) returns int
        language plpgsql as $$
        -- Day partitions from today on, on a grid of days_each days; returns how many were missing.
        declare d date; made int := 0; name text;
        begin
          for d in select g::date from generate_series(
              date '2020-01-06' + ((current_date - date '2020-01-06') / days_each) * days_each,
              current_date + days_ahead, make_interval(days => days_each)) g
          loop
            name := parent || '_' || to_char(d, 'YYYYMMDD');
            if to_regclass(name) is null then
              execute format('create table %%I partition of %%I for values from (%%L) to (%%L)',
                             name, parent, d::timestamptz, (d + days_each)::timestamptz);
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
