"""Where each user is reached, what they want to hear there, and when not; and whether anything is sent at all."""


def up(migrator, db):
    db.execute_sql(
        """
        -- An address of a user on a channel. The mail address in app_user needs no row here: it has one once it is off.
        create table target (
          user_id bigint not null references app_user,
          channel text not null check (channel in ('email', 'telegram', 'line', 'discord', 'webhook', 'apprise')),
          address text not null check (length(address) between 1 and 2000 and address !~ '[[:cntrl:][:space:]]'),
          -- with which a webhook is signed: 32 random bytes
          secret text not null default 'whsec_' || encode(decode(replace(
            gen_random_uuid()::text || gen_random_uuid(), '-', ''), 'hex'), 'base64'),
          -- null: nobody has shown yet that it is theirs
          verified_at timestamptz check (verified_at > '2000-01-01' and verified_at < '2200-01-01'),
          off_at timestamptz, off_reason text, created_at timestamptz not null default now(),
          primary key (user_id, channel, address),
          check ((off_at is null) = (off_reason is null))
        );

        -- The matrix of kinds and channels. No row: wanted. The kind '*' is every kind that has no row of its own.
        create table preference (
          user_id bigint not null references app_user, kind text not null check (kind ~ '^([*]|[a-z][a-z0-9_]{0,31})$'),
          channel text not null check (channel ~ '^[a-z]{1,16}$'), wanted boolean not null,
          primary key (user_id, kind, channel)
        );

        create table mute (
          user_id bigint not null references app_user, subject text not null, until timestamptz,  -- null: for good
          primary key (user_id, subject)
        );

        -- Clock times in the user's zone; from 23:00 until 07:00 is over midnight.
        create table quiet_hours (
          user_id bigint primary key references app_user, from_time time not null, until_time time not null,
          breaks_through text default 'critical' check (breaks_through in ('warning', 'critical')),  -- null: nothing
          check (from_time <> until_time), check (from_time < '24:00' and until_time < '24:00')  -- which is 00:00
        );

        -- One row: who may be reached from here. `live` holds for the desk at `place` (its PUBLIC_URL) alone: a copy of
        -- this database that runs elsewhere reaches nobody. The key signs the links with which users unsubscribe.
        create table delivery_switch (
          id boolean primary key default true check (id),
          mode text not null default 'dry-run' check (mode in ('live', 'dry-run', 'off')),
          place text not null default '', who text, changed_at timestamptz,
          link_key text not null default gen_random_uuid()::text || gen_random_uuid()
        );
        insert into delivery_switch default values;
        """
    )
