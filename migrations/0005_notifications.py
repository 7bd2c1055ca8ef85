"""Notifications: what a user is told in the app, and its delivery on other channels."""


def up(migrator, db):
    db.execute_sql(
        """
        -- The in-app message: there as soon as the fact is, in the fact's own transaction. Trigger, notification and
        -- deliveries are written by one statement, thousands at a time; foreign keys between them would only cost.
        create table notification (
          id bigint generated always as identity primary key, user_id bigint not null references app_user,
          kind text not null check (kind in ('alert')), trigger_id bigint unique,
          title text not null, data jsonb not null, created_at timestamptz not null default now(),
          read_at timestamptz
        );
        create index notification_user on notification (user_id, id desc);

        create table delivery (
          id bigint generated always as identity primary key, notification_id bigint not null,
          channel text not null check (channel in ('email', 'console')), target text not null,
          key uuid not null default gen_random_uuid(),  -- the same over all tries: receivers know a repeat by it
          state text not null default 'pending' check (state in ('pending', 'sending', 'sent', 'failed', 'dead')),
          tries int not null default 0 check (tries >= 0),
          due_at timestamptz not null default now(),  -- sending: when its worker must have died
          error text, created_at timestamptz not null default now(), tried_at timestamptz, ended_at timestamptz,
          unique (notification_id, channel),
          check ((state in ('sent', 'dead')) = (ended_at is not null)),
          check (state not in ('failed', 'dead') or error is not null)
        ) with (fillfactor = 85);
        create index delivery_due on delivery (channel, due_at, id) where state in ('pending', 'sending', 'failed');

        create table delivery_try (
          delivery_id bigint not null references delivery on delete cascade, number int not null,
          started_at timestamptz not null, ended_at timestamptz not null default clock_timestamp(),
          outcome text not null check (outcome in ('sent', 'failed', 'dead', 'put_back')), error text,
          receipt text, primary key (delivery_id, number, started_at)
        );

        -- A channel on which nothing can be sent at present (server away, login refused) rests for a while.
        create table channel (
          name text primary key, off_until timestamptz, failures int not null default 0, reason text,
          check ((off_until is null) = (reason is null))
        );
        """
    )
