"""Who gets into the console and the API: rows that hold hashes, never a password or a token."""


def up(migrator, db):
    db.execute_sql(
        """
        create table operator (
          name text primary key check (name ~ '^[A-Za-z0-9._@-]{1,64}$'),
          password text not null,
          role text not null check (role in ('viewer', 'operator')),
          created_at timestamptz not null default now(),
          disabled_at timestamptz
        );
        create table session (
          token_hash bytea primary key,
          operator text not null references operator on delete cascade,
          created_at timestamptz not null default now(),
          expires_at timestamptz not null
        );
        create index session_expires on session (expires_at);
        create table api_token (
          name text primary key,
          token_hash bytea not null unique,
          scope text not null check (scope in ('metrics', 'read')),
          created_at timestamptz not null default now(),
          expires_at timestamptz,
          revoked_at timestamptz
        );
        """
    )
