"""Notifications: what a user is told in the app, and its delivery on other channels."""


def up(migrator, db):
    db.execute_sql(
        """
        -- The in-app message: there as soon as the fact is, in the fact's own transaction. Whoever has news for a user
        -- writes this row and no other; routing makes the deliveries. Thousands are written at a time by one statement:
        -- foreign keys from deliveries, or to what they tell of, would only cost. So would one to the user, who is that
        -- of the fact's own row, and never deleted.
        create table notification (
          id bigint generated always as identity primary key, user_id bigint not null,
          kind text not null check (kind ~ '^[a-z][a-z0-9_]*$' and length(kind) <= 32),  -- {0,31} is far slower
          severity text not null default 'info' check (severity in ('info', 'warning', 'critical')),
          subject text,  -- the symbol, say: what a user may mute
          title text not null, data jsonb not null default '{}',
          key text collate "C" unique,  -- told once, whoever tells it again
          created_at timestamptz not null default now(),
          expires_at timestamptz not null default now() + interval '1 day',  -- news no more on any channel but the app
          routed_at timestamptz,  -- when its deliveries were made
          read_at timestamptz
        );
        create index notification_user on notification (user_id, id desc);
        create index notification_new on notification (id) where routed_at is null;

        create table delivery (
          id bigint generated always as identity primary key, notification_id bigint not null,
          channel text not null check (channel ~ '^[a-z]{1,16}$'), target text not null,
          key uuid not null default gen_random_uuid(),  -- the same over all tries: receivers know a repeat by it
          state text not null default 'pending' check (state in
            ('held', 'pending', 'sending', 'failed', 'bundled', 'sent', 'dead', 'skipped', 'dry')),
          leader_id bigint,  -- the delivery in whose message this one goes, and with which it ends
          tries int not null default 0 check (tries >= 0),
          due_at timestamptz not null default now(),  -- sending: when its worker must have died
          expires_at timestamptz not null, reason text, created_at timestamptz not null default now(),
          tried_at timestamptz, ended_at timestamptz,
          unique (notification_id, channel, target),
          check ((state in ('sent', 'dead', 'skipped', 'dry')) = (ended_at is not null)),
          check (state not in ('held', 'failed', 'dead', 'skipped') or reason is not null),
          check (state <> 'bundled' or leader_id is not null)
        ) with (fillfactor = 85);
        create index delivery_due on delivery (channel, due_at, id) where state in ('pending', 'sending', 'failed');
        create index delivery_held on delivery (due_at) where state = 'held';
        create index delivery_open on delivery (channel, target) where state in ('pending', 'failed', 'held');
        create index delivery_ended on delivery (ended_at) where ended_at is not null;
        create index delivery_leader on delivery (leader_id) where leader_id is not null;

        create table delivery_try (
          delivery_id bigint not null references delivery on delete cascade, number int not null,
          started_at timestamptz not null, ended_at timestamptz not null default clock_timestamp(),
          outcome text not null check (outcome in ('sent', 'failed', 'dead', 'put_back', 'dry')), error text,
          receipt text, primary key (delivery_id, number, started_at)
        );

        -- A channel on which nothing can be sent at present (server away, login refused) rests for a while.
        create table channel (
          name text primary key, off_until timestamptz, failures int not null default 0, reason text,
          check ((off_until is null) = (reason is null))
        );
        """
    )
