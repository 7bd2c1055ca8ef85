"""Deposits: what was paid to our users' addresses and what became of it; proofs of balance, and pauses."""


def up(migrator, db):
    db.execute_sql(
        """
        create table deposit (
          id bigint generated always as identity primary key,
          chain text collate "C" not null, tx text not null,
          output int not null check (output >= -1),  -- its number, the log's or the account's; -1: the transaction
          number bigint not null, hash text not null,  -- of its block
          address text not null, user_id bigint not null references app_user,
          contract text not null, asset text collate "C" not null references asset,
          units numeric not null check (units > 0 and units < 1e78 and scale(units) = 0),
          amount numeric not null check (amount > 0),
          paid boolean not null,  -- false: the transaction failed, nothing has reached the address
          state text not null default 'pending'
            check (state in ('pending', 'confirming', 'confirmed', 'credited', 'failed', 'orphaned', 'held')),
          reason text,  -- of failed, orphaned and held
          confirmations int not null default 0, required int,
          credits int not null default 0 check (credits >= 0),  -- how often: a reorg may take one back
          taken_back text,  -- why an operator did that with its credit: it waits for a release, in whatever block it is
          cleared_at timestamptz,  -- whoever checks has let it pass: no hold stops it any more
          seen_at timestamptz not null default now(), changed_at timestamptz not null default now(),
          credited_at timestamptz,
          unique (chain, tx, output),
          -- What was ever paid is counted in its asset's decimals and proved by its contract.
          constraint deposit_of_an_asset_that_is_taken foreign key (chain, contract) references chain_asset,
          check ((state in ('failed', 'orphaned', 'held')) = (reason is not null)),
          check (state <> 'credited' or credits > 0 and credited_at is not null and paid)
        ) with (fillfactor = 85);
        create index deposit_block on deposit (chain, number);
        create index deposit_user on deposit (user_id, id desc);
        create index deposit_in_flight on deposit (chain, number) where state in ('pending', 'confirming', 'confirmed');
        create index deposit_confirmed on deposit (id) where state = 'confirmed';
        create index deposit_changed on deposit (changed_at);  -- what happened in the last day
        create index deposit_held on deposit (id) where state = 'held';

        -- The hook of compliance: no deposit of these users is credited before somebody has cleared it.
        create table deposit_hold (
          user_id bigint primary key references app_user, reason text not null check (reason <> ''),
          created_at timestamptz not null default now(), ended_at timestamptz
        );

        -- The latest proof of each asset on each chain (an empty chain: of the users' wallets against the ledger).
        create table balance_proof (
          asset text collate "C" not null references asset, chain text collate "C" not null default '',
          expected numeric not null, found numeric not null, drift numeric not null check (drift = found - expected),
          booked int not null default 0,  -- how often an operator has booked a drift: a proof taken before is of no use
          proved_at timestamptz not null default now(), primary key (asset, chain)
        );
        create table credit_pause (  -- nothing is credited in this asset until an operator resumes it
          asset text collate "C" primary key references asset, reason text not null,
          paused_at timestamptz not null default now()
        );
        """
    )
