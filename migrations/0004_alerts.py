"""Alerts: who is told of what, what each alert waits for, and every time that one fired."""


def up(migrator, db):
    db.execute_sql(
        """
        -- Users of the app that Nightdesk serves; external_id is the app's own.
        create table app_user (
          id bigint generated always as identity primary key, external_id text not null unique,
          email text, zone text not null default 'UTC', created_at timestamptz not null default now()
        );
        create index app_user_email on app_user (lower(email)) where email is not null;

        create table alert (
          id bigint generated always as identity primary key, user_id bigint not null references app_user,
          symbol text collate "C" not null references instrument,
          kind text not null check (kind in ('above', 'below', 'crosses')),
          direction text check (direction in ('either', 'up', 'down')),
          level numeric not null check (level > 0 and level < 1e15),
          frequency text not null default 'once' check (frequency in ('once')),
          status text not null default 'new' check (status in ('new', 'active', 'triggered', 'removed')),
          trigger_count int not null default 0 check (trigger_count >= 0), last_triggered_at timestamptz,
          created_at timestamptz not null default now(),
          check ((kind = 'crosses') = (direction is not null)),
          check ((trigger_count > 0) = (last_triggered_at is not null))
        ) with (fillfactor = 85);
        create index alert_user on alert (user_id);
        create index alert_new on alert (id) where status = 'new';  -- the app's inserts, until the next check

        -- What an active alert waits for next: a price beyond the level in this direction, later than `since`.
        -- A watch that arms wants the price strictly beyond it, and then waits for it to come back.
        -- The table is narrow and holds active alerts only: finding what a price reaches is one index range.
        create table alert_watch (
          alert_id bigint primary key references alert on delete cascade, symbol text collate "C" not null,
          direction text not null check (direction in ('up', 'down', 'either')), arms boolean not null,
          level numeric not null, since timestamptz not null,
          check (arms or direction <> 'either')
        );
        create index alert_watch_up on alert_watch (symbol, level) where direction = 'up';
        create index alert_watch_down on alert_watch (symbol, level) where direction = 'down';
        create index alert_watch_either on alert_watch (symbol, level) where direction = 'either';

        -- Written with the alert's own row in one statement; alerts are never deleted, so a foreign key is only cost.
        create table alert_trigger (
          id bigint generated always as identity primary key, alert_id bigint not null,
          number int not null check (number > 0), user_id bigint not null, symbol text collate "C" not null,
          price numeric not null, previous numeric, happened_at timestamptz not null,
          received_at timestamptz not null, source text not null, rule jsonb not null,
          fired_at timestamptz not null default now(), unique (alert_id, number)
        );
        """
    )
