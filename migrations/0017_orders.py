"""Orders of the served app's exchange: placed with their money held, filled, cancelled, expired."""


def up(migrator, db):
    db.execute_sql(
        """
        alter table pair add column market text not null default 'CRYPTO';  -- whose close ends its day orders

        -- An order is its own hold: what it holds is locked in its account while it is open or expiring. A row of its
        -- own for that would cost as much again, at the order's end, as the order's row.
        create table trade_order (
          id bigint generated always as identity primary key, external_id text,
          user_id bigint not null references app_user, pair text collate "C" not null references pair,
          side text not null check (side in ('buy', 'sell')),
          price numeric not null check (price > 0 and price < 1e15),  -- the limit, in the quote asset
          quantity numeric not null check (quantity > 0 and quantity < 1e30), filled numeric not null default 0,
          fee_rate numeric not null default 0 check (fee_rate >= 0 and fee_rate < 1),  -- of what it costs
          account_id bigint not null,  -- whose money it holds
          reserved numeric not null, held numeric not null, paid numeric not null default 0,  -- the rest was given back
          time_in_force text not null default 'GTC' check (time_in_force in ('GTC', 'GTD', 'DAY')),
          expires_at timestamptz check (expires_at >= '2000-01-01 00:00Z' and expires_at < '3000-01-01 00:00Z'),
          status text not null default 'open' check (status in ('open', 'filled', 'cancelled', 'expiring', 'expired')),
          expiring_since timestamptz, ask_at timestamptz,  -- the matching engine, next
          trouble text,  -- why it is expiring still
          created_at timestamptz not null default now(), ended_at timestamptz,
          constraint trade_order_sums check (paid >= 0 and held >= 0 and held + paid <= reserved),
          constraint trade_order_while_open check ((held > 0) = (status in ('open', 'expiring'))),
          constraint trade_order_too_much_filled check (filled >= 0 and filled <= quantity),
          constraint trade_order_whole check ((status = 'filled') = (filled = quantity)),
          check ((time_in_force = 'GTC') = (expires_at is null)),
          check ((status in ('filled', 'cancelled', 'expired')) = (ended_at is not null)),
          check ((status = 'expiring') = (expiring_since is not null) and (status = 'expiring') = (ask_at is not null)),
          check (status = 'expiring' or trouble is null)
        ) with (fillfactor = 85);
        create index trade_order_due on trade_order (expires_at) where status = 'open' and expires_at is not null;
        create index trade_order_expiring on trade_order (ask_at) where status = 'expiring';
        create index trade_order_user on trade_order (user_id, id);
        create unique index trade_order_once on trade_order (user_id, external_id) where external_id is not null;

        -- Not by power(): it gives 16 digits in PostgreSQL 15.
        create function rounded_up(x numeric, scale int) returns numeric language sql immutable as $$
          select trunc(x, scale)
                 + case when trunc(x, scale) < x then ('1e-' || scale)::numeric else 0 end
        $$;

        create function order_reserve(side text, quantity numeric, price numeric, fee_rate numeric, scale int)
        returns numeric language sql immutable as $$
        -- What an order holds for so much of it, at the scale of the quote asset: a buyer's cost and fee at the limit,
        -- each rounded up, so that fills, each rounded down, and what is held for the rest never come to more.
          select case side when 'sell' then quantity
                 else rounded_up(quantity * price, scale) + rounded_up(quantity * price * fee_rate, scale) end
        $$;

        create function reserve_for_order() returns trigger
        language plpgsql security definer set search_path = public, pg_temp as $$
        -- What it will hold and of which account, and when a day order ends: with the session that is open or the next.
        declare
          on_pair record;
          wrong text;
        begin
          select p.active, p.tick_size, p.step_size, p.market, a.id as account_id, r.reserved into on_pair
          from pair p join asset q on q.code = p.quote
               left join account a on a.user_id = new.user_id
                                      and a.asset = case new.side when 'buy' then p.quote else p.base end
               cross join lateral (select order_reserve(
                 new.side, new.quantity, new.price, new.fee_rate, q.scale) as reserved) r
          where p.symbol = new.pair;
          new.account_id := on_pair.account_id;
          new.reserved := on_pair.reserved;
          new.held := on_pair.reserved;
          if new.time_in_force = 'DAY' and new.expires_at is null then
            select min(closes_at) into new.expires_at from market_session
            where market = on_pair.market and closes_at > now();
          end if;
          wrong := case
            when on_pair.active is not true then 'the pair is not traded'
            when mod(new.price, on_pair.tick_size) <> 0 then 'the price is no multiple of ' || on_pair.tick_size
            when mod(new.quantity, on_pair.step_size) <> 0 then
              'the quantity is no multiple of ' || on_pair.step_size
            when new.account_id is null then 'the user has no account in what it costs'
            when new.time_in_force = 'DAY' and new.expires_at is null then
              format('no coming session of %%s is known: give expires_at', on_pair.market) end;
          if wrong is not null then
            raise exception 'order of user %% to %% %% %% at %%: %%', new.user_id, new.side, new.quantity, new.pair,
              new.price, wrong using errcode = 'check_violation';
          end if;
          return new;
        end $$;
        create trigger reserve before insert on trade_order for each row execute function reserve_for_order();

        create function lock_for_orders() returns trigger
        language plpgsql security definer set search_path = public, pg_temp as $$
        -- No order without its money: all of an insert find it, or account_not_overdrawn refuses the insert.
        begin
          perform from account where id = any(array(select account_id from placed)) order by id for update;
          update account a set locked = a.locked + p.held
          from (select account_id, sum(held) as held from placed group by 1) p where a.id = p.account_id;
          return null;
        end $$;
        create trigger lock_for after insert on trade_order referencing new table as placed
          for each statement execute function lock_for_orders();

        create type fill as (trade_id bigint, buy_id bigint, sell_id bigint, quantity numeric, price numeric);

        create function fill_orders(fills fill[]) returns setof bigint
        language plpgsql security definer set search_path = public, pg_temp as $$
        -- Post trades between orders; returns the ids of those that are posted, now or before. One that is missing came
        -- too late: an order of it has ended. The buyer pays cost and fee, the seller's fee is kept back from the cost;
        -- what a better price than the limit saves is free at once.
        declare
          wrong text;
          legs posting[];
          posted transfer[];
        begin
          perform from trade_order
          where id = any(array(select buy_id from unnest(fills) union select sell_id from unnest(fills)))
          order by id for update;

          select format('trade %%s: ', f.trade_id) || case
              when b.id is null or s.id is null then 'it is not between a buying and a selling order of one pair'
              when b.user_id = s.user_id then 'both orders are one user''s'
              when f.price > b.price or f.price < s.price then format('%%s is not within the limits', f.price)
              else format('%%s at %%s cannot be paid in units of %%s', f.quantity, f.price, p.quote) end
          into wrong
          from unnest(fills) f
               left join trade_order b on b.id = f.buy_id and b.side = 'buy'
               left join trade_order s on s.id = f.sell_id and s.side = 'sell' and s.pair = b.pair
               left join pair p on p.symbol = b.pair left join asset q on q.code = p.quote
          where (b.user_id <> s.user_id and f.price <= b.price and f.price >= s.price
                 and trunc(f.quantity * f.price, q.scale) > 0) is not true
          limit 1;
          if found then
            raise exception '%%', wrong using errcode = 'check_violation';
          end if;

          perform open_accounts(array_agg(user_id), array_agg(asset)) from (
            select b.user_id, p.base as asset from unnest(fills) f
              join trade_order b on b.id = f.buy_id join pair p on p.symbol = b.pair
            union
            select s.user_id, p.quote from unnest(fills) f
              join trade_order s on s.id = f.sell_id join pair p on p.symbol = s.pair) n;
          perform our_account('fees', quote) from (
            select distinct p.quote from unnest(fills) f
              join trade_order b on b.id = f.buy_id join pair p on p.symbol = b.pair order by 1) n;

          select array_agg(('trade', f.trade_id, leg.number, leg.debit, leg.credit, leg.amount, true)::posting)
          into legs
          from unnest(fills) f
               join trade_order b on b.id = f.buy_id join trade_order s on s.id = f.sell_id
               join pair p on p.symbol = b.pair join asset q on q.code = p.quote
               join account payee on payee.user_id = s.user_id and payee.asset = p.quote
               join account taker on taker.user_id = b.user_id and taker.asset = p.base
               join account fees on fees.name = 'fees' and fees.asset = p.quote
               cross join lateral (select trunc(f.quantity * f.price, q.scale) as cost) c
               cross join lateral (
                 select trunc(c.cost * b.fee_rate, q.scale) as of_buyer,
                        trunc(c.cost * s.fee_rate, q.scale) as of_seller) fee
               cross join lateral (values
                 (0, b.account_id, payee.id, c.cost - fee.of_seller),
                 (1, s.account_id, taker.id, f.quantity),
                 (2, b.account_id, fees.id, fee.of_buyer + fee.of_seller)) leg(number, debit, credit, amount)
          where (leg.number < 2 or leg.amount > 0)
            and (b.status in ('open', 'expiring') and s.status in ('open', 'expiring')
                 or exists (select from transfer t where t.cause = 'trade' and t.cause_id = f.trade_id));
          posted := array(select t from post_transfers(legs) t);

          with part as (
            select o.id, sum(case when t.leg = 1 then t.amount else 0 end) as quantity,
                   sum(case when o.buys = (t.leg <> 1) then t.amount else 0 end) as paid
            from unnest(posted) t join (select distinct on (trade_id) * from unnest(fills)) f on f.trade_id = t.cause_id
                 cross join lateral (values (f.buy_id, true), (f.sell_id, false)) o(id, buys)
            group by o.id
          ), changed as materialized (
            select o.id, o.account_id, p.quantity, p.paid, r.holds, o.held - p.paid - r.holds as freed,
                   o.filled + p.quantity = o.quantity as ends
            from part p join trade_order o using (id) join pair on pair.symbol = o.pair
                 join asset q on q.code = pair.quote
                 cross join lateral (select order_reserve(
                   o.side, o.quantity - o.filled - p.quantity, o.price, o.fee_rate, q.scale) as holds) r
          ), written as (
            update trade_order o set
              filled = o.filled + c.quantity, paid = o.paid + c.paid, held = c.holds,
              status = case when c.ends then 'filled' else o.status end, ended_at = case when c.ends then now() end,
              expiring_since = case when not c.ends then o.expiring_since end,
              ask_at = case when not c.ends then o.ask_at end, trouble = case when not c.ends then o.trouble end
            from changed c where o.id = c.id
          )
          update account a set locked = a.locked - c.freed, owed = greatest(a.owed - c.freed, 0)
          from (select account_id, sum(freed) as freed from changed group by 1) c
          where a.id = c.account_id and c.freed <> 0;

          return query
          select distinct t.cause_id from transfer t
          where t.cause = 'trade' and t.cause_id = any(array(select trade_id from unnest(fills)));
        end $$;

        create function cancel_orders(ids bigint[]) returns setof bigint
        language plpgsql security definer set search_path = public, pg_temp as $$
        -- Cancel orders that are open, and give back what they still hold; returns those that are cancelled, now or
        -- before. Where an engine matches, it must have let go of them first.
        begin
          perform from trade_order where id = any(ids) order by id for update;
          perform from account
          where id = any(array(select account_id from trade_order where id = any(ids))) order by id for update;

          with ending as materialized (
            select id, account_id, held from trade_order where id = any(ids) and status = 'open'
          ), ended as (
            update trade_order set status = 'cancelled', held = 0, ended_at = now()
            where id = any(array(select id from ending))
          )
          update account a set locked = a.locked - e.held, owed = greatest(a.owed - e.held, 0)
          from (select account_id, sum(held) as held from ending group by 1) e where a.id = e.account_id;
          return query select id from trade_order where id = any(ids) and status = 'cancelled';
        end $$;

        revoke execute on function fill_orders, cancel_orders, reserve_for_order, lock_for_orders from public;
        """
    )
