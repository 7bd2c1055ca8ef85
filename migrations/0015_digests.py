"""Digests: who wants the day or the week summed up, and when the next one is due."""


def up(migrator, db):
    db.execute_sql(
        """
        -- A row: the user wants it. `at_time` in the user's zone; none: 12:00 UTC, on Sundays 14:00 UTC.
        create table digest (
          user_id bigint not null references app_user, kind text not null check (kind in ('daily', 'weekly')),
          at_time time,
          -- null: new, not planned yet
          next_at timestamptz check (next_at > '2000-01-01' and next_at < '2200-01-01'),
          last_at timestamptz,  -- when the last one was due, from where the next one goes on; null: none yet
          primary key (user_id, kind), check (next_at > last_at)
        );
        create index digest_due on digest (next_at);
        """
    )
