"""Chains: what we know of each, its newest blocks, our users' addresses on it, and what is paid there."""


def up(migrator, db):
    db.execute_sql(
        """
        -- A chain stands still until it has an address. The cursor is the newest block that we have read; every block
        -- up to it was linked to the one before by its hash (on Solana: the newest slot that we have asked for).
        -- Whoever moves it adds one to the version: of two scans at once one writes nothing.
        create table chain (
          name text collate "C" primary key check (name ~ '^[a-z][a-z0-9_]{0,23}$'),
          identity text not null,  -- eth_chainId or the hash of the first block: the wrong node is noticed by it
          block_time interval not null check (block_time > interval '0'),
          confirmations int not null check (confirmations between 1 and 10000),
          kept int not null default 300 check (kept >= 32),  -- blocks whose hashes we keep: how far we can walk back
          head bigint check (head >= 0),  -- what its node said last
          cursor bigint check (cursor >= 0), version bigint not null default 0,
          answered_at timestamptz, scanned_at timestamptz,
          error text, failing_since timestamptz,
          paused text,  -- why nobody reads it: an operator resumes it
          check ((error is null) = (failing_since is null))
        ) with (fillfactor = 50);

        create table chain_block (
          chain text collate "C" not null references chain, number bigint not null,
          hash text not null, parent text not null,
          primary key (chain, number)
        );

        -- Addresses of the served app's users, and of the house where there is no user. An address counts from when
        -- it is inserted: what was paid to it before is nobody's deposit.
        create table chain_address (
          chain text collate "C" not null references chain, address text not null,
          user_id bigint references app_user,
          scanned_to bigint,  -- on chains that are read by address: up to where; null: not yet
          created_at timestamptz not null default now(),
          primary key (chain, address),
          check (address !~* '^0x' or address ~ '^0x[0-9a-f]{40}$'),  -- EVM: in lower case
          check (address !~* '^(bc|tb|bcrt)1' or address = lower(address))  -- Bitcoin's bech32
        );
        create index chain_address_user on chain_address (user_id);

        -- What we take on a chain; an empty contract is the chain's own coin. Nothing is credited until the chain has
        -- said that the decimals are right.
        create table chain_asset (
          chain text collate "C" not null references chain, contract text not null default '',
          asset text collate "C" not null references asset,
          decimals smallint not null check (decimals between 0 and 30),
          minimum numeric not null default 0 check (minimum >= 0 and minimum < 1e78),  -- less is dust; NaN is above it
          confirmations int check (confirmations between 1 and 10000),  -- null: the chain's
          tag text check (tag in ('safe', 'finalized')),  -- final is what the chain's tag says, where its node has it
          hold_above numeric check (hold_above >= 0 and hold_above < 1e78),  -- so much waits for somebody's release
          verified_at timestamptz, error text,  -- what the chain said of the decimals
          primary key (chain, contract),
          check (contract !~* '^0x' or contract ~ '^0x[0-9a-f]{40}$')
        );
        create table finality_tier (  -- from so much on, so many confirmations
          chain text collate "C" not null, contract text not null default '',
          amount numeric not null check (amount > 0 and amount < 1e78),
          confirmations int not null check (confirmations between 1 and 10000),
          primary key (chain, contract, amount),
          foreign key (chain, contract) references chain_asset on delete cascade
        );

        -- What is odd, for the operator: one row for each thing, however often it is met.
        create table chain_incident (
          chain text collate "C" not null references chain,
          kind text not null check (kind in ('unknown_asset', 'removed', 'same_id', 'gap', 'false_head', 'reorg',
                                             'deep_reorg', 'wrong_chain', 'false_decimals', 'stuck')),
          subject text not null, detail text not null, count int not null default 1 check (count > 0),
          first_at timestamptz not null default now(), last_at timestamptz not null default now(),
          primary key (chain, kind, subject)
        );
        create index chain_incident_last on chain_incident (last_at);

        insert into chain (name, identity, block_time, confirmations) values
          ('ethereum', '0x1', '12 s', 12), ('bsc', '0x38', '0.75 s', 15), ('polygon', '0x89', '2 s', 128),
          ('bitcoin', '000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f', '10 min', 6),
          ('solana', '5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d', '0.4 s', 32);
        """
    )
