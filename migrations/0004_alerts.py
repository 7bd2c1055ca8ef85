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
          type text not null default 'price', subject text collate "C" not null,
          measure text collate "C" not null default 'price',
          condition text not null check (condition in
            ('above', 'below', 'equals', 'crosses', 'percent_up', 'percent_down', 'happens', 'within')),
          direction text check (direction in ('either', 'up', 'down')),
          level numeric not null default 0 check (level > -1e15 and level < 1e15 and scale(level) <= 30), base text,
          frequency text not null default 'once' check (frequency in ('once', 'bar', 'close', 'every')), bar text,
          cooldown interval check (cooldown > interval '0' and cooldown <= interval '366 days'),
          expires_at timestamptz check (expires_at > '2000-01-01' and expires_at < '2200-01-01'),
          status text not null default 'new' check (status in
            ('new', 'active', 'triggered', 'paused', 'expired', 'refused', 'removed')),
          reason text,  -- why it is refused or paused
          -- What it came to when it was made active: the stream of values that it watches, and what it waits for there.
          stream text collate "C", base_value numeric, target numeric, band numeric, way_back numeric,
          split_on date,  -- its base and target are in the shares of this day
          silence text check (silence in ('missing', 'stale')),  -- there is no fresh value, and its owner was told
          trigger_count int not null default 0 check (trigger_count >= 0), last_triggered_at timestamptz,
          touches int not null default 0 check (touches >= 0),  -- of its level since it last fired
          created_at timestamptz not null default now(),
          -- When it is to be seen to: at once while it is new, at its expiry while it is active. An index that named
          -- the status would be written at every firing, and all the others with it.
          due_at timestamptz generated always as (
            case status when 'new' then timestamptz '-infinity' when 'active' then expires_at end) stored,
          check ((trigger_count > 0) = (last_triggered_at is not null)),
          check (status <> 'refused' or reason is not null),
          check (status <> 'active' or target is not null)
        ) with (fillfactor = 85);
        create index alert_user on alert (user_id);
        create index alert_due on alert (due_at, id) where due_at is not null;
        create index alert_percent on alert (subject) where base = 'creation';
        create index alert_silent on alert (subject, stream) where silence is not null;

        -- What an active alert waits for next: a value beyond the level in this direction, later than `since`; of a
        -- date, the instant `since`. A watch that arms wants the value strictly beyond (either: by more than the band),
        -- and then waits for it to come back. One that does not and has a band is passed when a value jumps over that.
        -- The table is narrow and holds active alerts only: finding what a value reaches is one index range.
        create table alert_watch (
          alert_id bigint primary key references alert on delete cascade,
          subject text collate "C" not null, stream text collate "C" not null,
          direction text not null check (direction in ('up', 'down', 'either', 'date')), arms boolean not null,
          level numeric not null, band numeric not null default 0, since timestamptz not null,
          target numeric,  -- the level of an alert that has fired and not been far enough away from it since
          check (arms or direction <> 'either'), check (arms or target is null)
        );
        create index alert_watch_up on alert_watch (subject, stream, level) where direction = 'up';
        create index alert_watch_down on alert_watch (subject, stream, level) where direction = 'down';
        create index alert_watch_either on alert_watch (subject, stream, level) where direction = 'either';
        create index alert_watch_date on alert_watch (subject, stream) where direction = 'date';
        create index alert_watch_due on alert_watch (since) where direction = 'date';
        create index alert_watch_touched on alert_watch (subject, stream, target) where target is not null;

        -- Written with the alert's own row in one statement; alerts are never deleted, so a foreign key is only cost.
        create table alert_trigger (
          id bigint generated always as identity primary key, alert_id bigint not null,
          number int not null check (number > 0), user_id bigint not null,
          subject text collate "C" not null, stream text collate "C" not null,
          value numeric not null, previous numeric, happened_at timestamptz not null,
          received_at timestamptz not null, source text not null, about text, touches int not null,
          rule jsonb not null, waited jsonb not null,  -- what it was, and what it waited for when this value came
          fired_at timestamptz not null default now(), unique (alert_id, number)
        );

        -- Streams of which there has been no fresh value for so long that the owners of alerts on them are told.
        create table silence (
          subject text collate "C" not null, stream text collate "C" not null,
          state text not null check (state in ('missing', 'stale')),
          told_at timestamptz,  -- since when nobody is left to be told
          primary key (subject, stream)
        );
        """
    )
