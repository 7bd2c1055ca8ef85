"""Ledger: accounts, holds, transfers, and the functions that alone move money."""


def up(migrator, db):
    db.execute_sql(
        """
        -- Updated at every transfer: half-empty pages and no index on what changes keep the updates in place.
        create table account (
          id bigint generated always as identity primary key,
          user_id bigint references app_user,
          name text collate "C",  -- of ours: fees, house, a chain's; compared as `asset` is, or no index would serve
          asset text collate "C" not null references asset,
          balance numeric not null default 0,  -- the sum of its transfers
          locked numeric not null default 0 check (locked >= 0),  -- the sum of what its orders and holds hold
          owed numeric not null default 0 check (owed >= 0),  -- what reversals did not find; what comes in repays it
          available numeric not null generated always as (balance - locked + owed) stored,
          frozen_at timestamptz, frozen_reason text,  -- its user can withdraw nothing meanwhile, of any asset
          created_at timestamptz not null default now(),
          unique (user_id, asset), unique (name, asset),
          check ((user_id is null) <> (name is null)),
          check (user_id is not null or locked = 0 and owed = 0),
          constraint account_not_overdrawn check (user_id is null or available >= 0),
          constraint account_repays_first check (owed = 0 or available = 0),
          check ((frozen_at is null) = (frozen_reason is null))
        ) with (fillfactor = 50);

        -- Money that waits for its purpose, and goes there or comes back, once. An order holds its money by itself.
        -- Holds and transfers are written by the functions below, from rows of account: foreign keys would only cost.
        create table hold (
          id bigint generated always as identity primary key, account_id bigint not null,
          cause text not null check (cause in ('withdrawal')), cause_id bigint not null,
          amount numeric not null check (amount > 0 and amount < 1e78),
          state text not null default 'pending' check (state in ('pending', 'posted', 'released')),
          created_at timestamptz not null default now(), ended_at timestamptz,
          unique (cause, cause_id),
          check ((state = 'pending') = (ended_at is null))
        ) with (fillfactor = 85);

        -- So much of an asset out of the debit account into the credit account: what sums to zero by its shape.
        -- Never changed and never dropped; not partitioned, as its cause must be unique for all time.
        create table transfer (
          id bigint generated always as identity primary key,
          cause text not null check (cause in ('deposit', 'trade', 'settlement', 'withdrawal', 'operator', 'reversal')),
          cause_id bigint not null, leg int not null,
          debit_id bigint not null, credit_id bigint not null, asset text collate "C" not null,
          amount numeric not null check (amount > 0 and amount < 1e78),  -- any uint256; NaN and infinity are above it
          held boolean not null check (not held or cause <> 'reversal'),  -- it was paid out of what was locked
          created_at timestamptz not null default now(),
          unique (cause, cause_id, leg),
          constraint transfer_moves check (debit_id <> credit_id)
        );
        create index transfer_debit on transfer (debit_id, id);
        create index transfer_credit on transfer (credit_id, id);

        -- Functions that run as their owner look into pg_temp last: no temporary table of the app's stands in for ours.
        create function refuse_change() returns trigger language plpgsql as $$
        begin
          raise exception '%% of %% is refused: corrections are reversals', tg_op, tg_table_name;
        end $$;
        create trigger append_only before update or delete on transfer for each row execute function refuse_change();
        create trigger append_only_all before truncate on transfer execute function refuse_change();
        create trigger stays before delete on account for each row execute function refuse_change();
        create trigger same before update of id, user_id, name, asset on account for each row
          execute function refuse_change();
        create trigger ends_once before update on hold for each row
          when (old.state <> 'pending') execute function refuse_change();
        create trigger stays before delete on hold for each row execute function refuse_change();

        create function open_accounts(users bigint[], assets text[]) returns void
        language sql set search_path = public, pg_temp as $$
        -- The accounts of these users in these assets (pairwise), where there are none yet.
          insert into account (user_id, asset)
          select distinct u.id, u.asset from unnest(users, assets) as u(id, asset)
          where not exists (select from account a where a.user_id = u.id and a.asset = u.asset)
          order by 1, 2 on conflict do nothing
        $$;

        create function our_account(called text, of_asset text) returns bigint
        language plpgsql set search_path = public, pg_temp as $$
        -- The id of one of our own accounts, which is opened if it is new.
        declare found_id bigint;
        begin
          select id into found_id from account where name = called and asset = of_asset;
          if not found then
            insert into account (name, asset) values (called, of_asset) on conflict do nothing;
            select id into found_id from account where name = called and asset = of_asset;
          end if;
          return found_id;
        end $$;

        create type posting as (
          cause text, cause_id bigint, leg int, debit_id bigint, credit_id bigint, amount numeric, held boolean
        );

        create function post_transfers(postings posting[]) returns setof transfer
        language plpgsql set search_path = public, pg_temp as $$
        -- Post these in the open transaction, all or none, and return those that are new. A repeat is nothing; under
        -- the same cause and leg with another amount or account it is an error. What is `held` goes out of what is
        -- locked, and the caller lessens the order or the hold that locked it. Accounts are locked in the order of
        -- their ids, so that two calls never wait for each other in a circle; a transaction makes one call.
        declare
          posted int;
          wrong text;
        begin
          perform from account
          where id = any(array(select debit_id from unnest(postings) union select credit_id from unnest(postings)))
          order by id for update;

          return query
          with made as (
            insert into transfer as t (cause, cause_id, leg, debit_id, credit_id, asset, amount, held)
            select p.cause, p.cause_id, p.leg, d.id, c.id, d.asset, p.amount, coalesce(p.held, false)
            from unnest(postings) p
                 join account d on d.id = p.debit_id join account c on c.id = p.credit_id and c.asset = d.asset
                 join asset s on s.code = d.asset and scale(trim_scale(p.amount)) <= s.scale
            order by p.cause, p.cause_id, p.leg
            on conflict (cause, cause_id, leg) do nothing
            returning t.*
          ), moved as (
            select id, sum(came) as came, sum(went) as went, sum(held) as held, sum(taken) as taken from (
              select credit_id as id, amount as came, 0 as went, 0 as held, 0 as taken from made
              union all
              select debit_id, 0, case when cause <> 'reversal' and not held then amount else 0 end,
                     case when held then amount else 0 end, case when cause = 'reversal' then amount else 0 end
              from made) m
            group by id
          ), reckoned as (
            -- What comes in repays what is owed; then goes what must be there; what is taken back in vain is owed.
            select m.*, a.user_id is not null as owes, greatest(m.came - a.owed, 0) + a.available - m.went as leaves,
                   greatest(a.owed - m.came, 0) as unpaid
            from moved m join account a using (id)
          ), balanced as (
            update account a set
              balance = a.balance + r.came - r.went - r.held - r.taken, locked = a.locked - r.held,
              owed = case when r.owes then r.unpaid + greatest(r.taken - greatest(r.leaves, 0), 0) else 0 end
            from reckoned r where a.id = r.id
          )
          select * from made;

          get diagnostics posted = row_count;
          if posted < cardinality(postings) then  -- repeats, or something is wrong
            select format('%%s %%s, leg %%s: ', p.cause, p.cause_id, p.leg) || case
                when t.id is not null then format('is posted already, as %%s from account %%s to account %%s',
                                                  t.amount, t.debit_id, t.credit_id)
                when d.id is null or c.id is null then format('no account %%s', case when d.id is null
                                                              then p.debit_id else p.credit_id end)
                when d.asset <> c.asset then format('from %%s to %%s is no transfer', d.asset, c.asset)
                else format('%%s is no amount of %%s', p.amount, d.asset) end
            into wrong
            from unnest(postings) p left join transfer t using (cause, cause_id, leg)
                 left join account d on d.id = p.debit_id left join account c on c.id = p.credit_id
            where t.id is null or (t.debit_id, t.credit_id, t.amount, t.held)
                                  is distinct from (p.debit_id, p.credit_id, p.amount, coalesce(p.held, false))
            order by p.cause, p.cause_id, p.leg limit 1;
            if found then
              raise exception '%%', wrong using errcode = 'check_violation';
            end if;
          end if;
        end $$;

        create function reverse_transfers(ids bigint[]) returns setof transfer
        language plpgsql set search_path = public, pg_temp as $$
        -- Take transfers back, each once. What a user has spent of it meanwhile is owed from then on.
        declare
          reversals posting[] := array(
            select ('reversal', t.id, 0, t.credit_id, t.debit_id, t.amount, false)::posting
            from transfer t where t.id = any(ids) order by t.id);
        begin
          if cardinality(reversals) < (select count(distinct id) from unnest(ids) as i(id)) then
            raise exception 'some of the transfers %% do not exist', ids using errcode = 'no_data_found';
          end if;
          return query select * from post_transfers(reversals);
        end $$;

        create type holding as (cause text, cause_id bigint, account_id bigint, amount numeric);

        create function place_holds(holdings holding[]) returns setof hold
        language plpgsql set search_path = public, pg_temp as $$
        -- Lock money for a purpose, all or none; returns the new holds. A repeat is nothing, with another amount an
        -- error, and more than is available is refused by account_not_overdrawn.
        declare
          placed int;
          wrong text;
        begin
          perform from account
          where id = any(array(select account_id from unnest(holdings))) order by id for update;

          return query
          with made as (
            insert into hold as h (cause, cause_id, account_id, amount)
            select n.cause, n.cause_id, a.id, n.amount
            from unnest(holdings) n join account a on a.id = n.account_id and a.user_id is not null
                 join asset s on s.code = a.asset and scale(trim_scale(n.amount)) <= s.scale
            where not exists (select from account f where f.user_id = a.user_id and f.frozen_at is not null)
            order by n.cause, n.cause_id
            on conflict (cause, cause_id) do nothing
            returning h.*
          ), locked as (
            update account a set locked = a.locked + m.amount
            from (select account_id, sum(amount) as amount from made group by 1) m where a.id = m.account_id
          )
          select * from made;

          get diagnostics placed = row_count;
          if placed < cardinality(holdings) then
            select format('%%s %%s: ', n.cause, n.cause_id) || case
                when h.id is not null then format('holds %%s of account %%s already', h.amount, h.account_id)
                when a.id is null then format('account %%s is no user''s', n.account_id)
                when f.id is not null then format('account %%s is frozen: %%s', f.id, f.frozen_reason)
                else format('%%s is no amount of %%s', n.amount, a.asset) end
            into wrong
            from unnest(holdings) n left join hold h using (cause, cause_id)
                 left join account a on a.id = n.account_id and a.user_id is not null
                 left join account f on f.user_id = a.user_id and f.frozen_at is not null
            where h.id is null or (h.account_id, h.amount) is distinct from (n.account_id, n.amount) limit 1;
            if found then
              raise exception '%%', wrong using errcode = 'check_violation';
            end if;
          end if;
        end $$;

        create function release_holds(ids bigint[]) returns setof hold
        language plpgsql set search_path = public, pg_temp as $$
        -- Give back what these holds hold; returns those that were pending.
        begin
          perform from hold where id = any(ids) order by id for update;
          perform from account
          where id = any(array(select account_id from hold where id = any(ids))) order by id for update;

          return query
          with ended as (
            update hold h set state = 'released', ended_at = now()
            where h.id = any(ids) and h.state = 'pending'
            returning h.*
          ), unlocked as (
            update account a set locked = a.locked - e.amount, owed = greatest(a.owed - e.amount, 0)
            from (select account_id, sum(amount) as amount from ended group by 1) e where a.id = e.account_id
          )
          select * from ended;
        end $$;

        -- What the served app may call: a withdrawal's money is held, then paid out or given back.
        create function hold_withdrawal(withdrawal bigint, of_user bigint, of_asset text, amount numeric) returns void
        language plpgsql security definer set search_path = public, pg_temp as $$
        begin
          perform place_holds(array[(
            'withdrawal', withdrawal, (select id from account where user_id = of_user and asset = of_asset), amount
          )::holding]);
        end $$;

        create function post_withdrawal(withdrawal bigint, into_account text) returns void
        language plpgsql security definer set search_path = public, pg_temp as $$
        declare held hold;
        begin
          select * into held from hold where cause = 'withdrawal' and cause_id = withdrawal for update;
          if held.state is null or held.state = 'released' then
            raise exception 'withdrawal %% holds nothing', withdrawal using errcode = 'check_violation';
          end if;
          perform post_transfers(array(
            select ('withdrawal', withdrawal, 0, id, our_account(into_account, asset), held.amount, true)::posting
            from account where id = held.account_id));
          update hold set state = 'posted', ended_at = now() where id = held.id and state = 'pending';
        end $$;

        create function cancel_withdrawal(withdrawal bigint) returns void
        language plpgsql security definer set search_path = public, pg_temp as $$
        begin
          perform release_holds(array(select id from hold where cause = 'withdrawal' and cause_id = withdrawal));
        end $$;

        revoke execute on function open_accounts, our_account, post_transfers, reverse_transfers, place_holds,
          release_holds, hold_withdrawal, post_withdrawal, cancel_withdrawal from public;
        """
    )
