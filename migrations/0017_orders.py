"""Orders of the served app's exchange: placed with their money held, filled, cancelled, expired."""


def up(migrator, db):
    db.execute_sql(
        """
        alter table pair add column market text not null default 'CRYPTO';  -- whose close ends its day orders

        create table trade_order (
          id bigint generated always as identity primary key, external_id text,
          user_id bigint not null references app_user, pair text collate "C" not null references pair,
          side text not null check (side in ('buy', 'sell')),
          price numeric not null check (price > 0 and price < 1e15),  -- the limit, in the quote asset
          quantity numeric not null check (quantity > 0 and quantity < 1e30), filled numeric not null default 0,
          fee_rate numeric not null default 0 check (fee_rate >= 0 and fee_rate < 1),  -- of what it costs
          time_in_force text not null default 'GTC' check (time_in_force in ('GTC', 'GTD', 'DAY')),
          expires_at timestamptz,
          status text not null default 'open' check (status in ('open', 'filled', 'cancelled', 'expiring', 'expired')),
          expiring_since timestamptz, ask_at timestamptz,  -- the matching engine, next
          trouble text,  -- why it is expiring still
          created_at timestamptz not null default now(), ended_at timestamptz,
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

        create function end_of_day() returns trigger language plpgsql security definer set search_path = public as $$
        -- A day order ends with the session that is open, or with the next.
        begin
          select min(s.closes_at) into new.expires_at from pair p join market_session s on s.market = p.market
          where p.symbol = new.pair and s.closes_at > now();
          if new.expires_at is null then
            raise exception 'no coming session of the market of %% is known: give expires_at', new.pair
              using errcode = 'check_violation';
          end if;
          return new;
        end $$;
        create trigger end_of_day before insert on trade_order for each row
          when (new.time_in_force = 'DAY' and new.expires_at is null) execute function end_of_day();

        create function rounded_up(x numeric, scale int) returns numeric language sql immutable as $$
          select trunc(x, scale)
                 + case when trunc(x, scale) < x then round(power(10::numeric, -scale), scale) else 0 end
        $$;

        create function order_reserve(side text, quantity numeric, price numeric, fee_rate numeric, scale int)
        returns numeric language sql immutable as $$
        -- What an order holds for so much of it, at the scale of the quote asset: a buyer's cost and fee at the limit,
        -- each rounded up, so that fills, each rounded down, and what is held for the rest never come to more.
          select case side when 'sell' then quantity
                 else rounded_up(quantity * price, scale) + rounded_up(quantity * price * fee_rate, scale) end
        $$;

        create function hold_for_orders() returns trigger
        language plpgsql security definer set search_path = public as $$
        -- No order without its money: all orders of an insert are held for, or the insert fails.
        declare wrong text;
        begin
          select format('order to %%s %%s %%s at %%s: ', o.side, o.quantity, o.pair, o.price) || case
              when not p.active then 'the pair is not traded'
              when mod(o.price, p.tick_size) <> 0 then format('the price is no multiple of %%s', p.tick_size)
              when mod(o.quantity, p.step_size) <> 0 then format('the quantity is no multiple of %%s', p.step_size)
              else 'user ' || o.user_id || ' has no account in what it costs' end
          into wrong
          from placed o join pair p on p.symbol = o.pair
               left join account a on a.user_id = o.user_id
                                      and a.asset = case o.side when 'buy' then p.quote else p.base end
          where not p.active or mod(o.price, p.tick_size) <> 0 or mod(o.quantity, p.step_size) <> 0 or a.id is null
          limit 1;
          if found then
            raise exception '%%', wrong using errcode = 'check_violation';
          end if;
          perform place_holds(array(
            select ('order', o.id, a.id, order_reserve(o.side, o.quantity, o.price, o.fee_rate, q.scale))::holding
            from placed o join pair p on p.symbol = o.pair join asset q on q.code = p.quote
                 join account a on a.user_id = o.user_id
                                   and a.asset = case o.side when 'buy' then p.quote else p.base end));
          return null;
        end $$;
        create trigger hold_for after insert on trade_order referencing new table as placed
          for each statement execute function hold_for_orders();

        create type fill as (trade_id bigint, buy_id bigint, sell_id bigint, quantity numeric, price numeric);

        create function fill_orders(fills fill[]) returns setof bigint
        language plpgsql security definer set search_path = public as $$
        -- Post trades between orders; returns the ids of those that are posted, now or before. One that is missing came
        -- too late: an order of it has ended. The buyer pays cost and fee, the seller's fee is kept back from the cost;
        -- what a better price than the limit saves is free at once.
        declare
          wrong text;
          legs posting[];
          fresh fill[];
        begin
          perform from trade_order
          where id = any(array(select buy_id from unnest(fills) union select sell_id from unnest(fills)))
          order by id for update;

          select format('trade %%s: ', f.trade_id) || case
              when b.id is null or s.id is null then 'it is not between a buying and a selling order of one pair'
              when f.price > b.price or f.price < s.price then format('%%s is not within the limits', f.price)
              else format('%%s at %%s cannot be paid in units of %%s', f.quantity, f.price, p.quote) end
          into wrong
          from unnest(fills) f
               left join trade_order b on b.id = f.buy_id and b.side = 'buy'
               left join trade_order s on s.id = f.sell_id and s.side = 'sell' and s.pair = b.pair
               left join pair p on p.symbol = b.pair left join asset q on q.code = p.quote
          where (f.price <= b.price and f.price >= s.price and trunc(f.quantity * f.price, q.scale) > 0) is not true
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

          with trade as materialized (
            select f.*, exists (select from transfer t where t.cause = 'trade' and t.cause_id = f.trade_id) as posted,
                   b.status in ('open', 'expiring') and s.status in ('open', 'expiring') as both_open,
                   bh.id as buy_hold, bh.account_id as payer, sh.id as sell_hold, sh.account_id as giver,
                   payee.id as payee, taker.id as taker, fees.id as fees, c.cost,
                   trunc(c.cost * b.fee_rate, q.scale) as buy_fee, trunc(c.cost * s.fee_rate, q.scale) as sell_fee
            from unnest(fills) f
                 join trade_order b on b.id = f.buy_id join trade_order s on s.id = f.sell_id
                 join pair p on p.symbol = b.pair join asset q on q.code = p.quote
                 join hold bh on bh.cause = 'order' and bh.cause_id = b.id
                 join hold sh on sh.cause = 'order' and sh.cause_id = s.id
                 join account payee on payee.user_id = s.user_id and payee.asset = p.quote
                 join account taker on taker.user_id = b.user_id and taker.asset = p.base
                 join account fees on fees.name = 'fees' and fees.asset = p.quote
                 cross join lateral (select trunc(f.quantity * f.price, q.scale) as cost) c
          ), leg as (
            select trade_id, 0 as leg, payer as debit, payee as credit, cost - sell_fee as amount, buy_hold as held
            from trade where posted or both_open
            union all
            select trade_id, 1, giver, taker, quantity, sell_hold from trade where posted or both_open
            union all
            select trade_id, 2, payer, fees, buy_fee + sell_fee, buy_hold from trade
            where (posted or both_open) and buy_fee + sell_fee > 0
          )
          select array(select ('trade', trade_id, leg, debit, credit, amount, held)::posting from leg),
                 array(select (trade_id, buy_id, sell_id, quantity, price)::fill from trade
                       where both_open and not posted)
          into legs, fresh;

          perform post_transfers(legs);

          with part as (
            select id, sum(quantity) as quantity from (
              select buy_id as id, quantity from unnest(fresh) union all select sell_id, quantity from unnest(fresh)) f
            group by id
          )
          update trade_order o set
            filled = o.filled + p.quantity,
            status = case when o.filled + p.quantity = o.quantity then 'filled' else o.status end,
            ended_at = case when o.filled + p.quantity = o.quantity then now() end,
            expiring_since = case when o.filled + p.quantity < o.quantity then o.expiring_since end,
            ask_at = case when o.filled + p.quantity < o.quantity then o.ask_at end,
            trouble = case when o.filled + p.quantity < o.quantity then o.trouble end
          from part p where o.id = p.id;

          with saved as materialized (
            select h.id, h.account_id,
                   h.remaining - order_reserve(o.side, o.quantity - o.filled, o.price, o.fee_rate, q.scale) as amount
            from trade_order o join pair p on p.symbol = o.pair join asset q on q.code = p.quote
                 join hold h on h.cause = 'order' and h.cause_id = o.id and h.state = 'pending'
            where o.id = any(array(select buy_id from unnest(fresh)))
          ), freed as (
            update hold h set
              freed = h.freed + s.amount, state = case when h.remaining = s.amount then 'posted' else h.state end,
              ended_at = case when h.remaining = s.amount then now() end
            from saved s where h.id = s.id and s.amount <> 0
          )
          update account a set locked = a.locked - s.amount, owed = greatest(a.owed - s.amount, 0)
          from (select account_id, sum(amount) as amount from saved group by 1) s
          where a.id = s.account_id and s.amount <> 0;

          return query
          select distinct t.cause_id from transfer t
          where t.cause = 'trade' and t.cause_id = any(array(select trade_id from unnest(fills)));
        end $$;

        create function cancel_orders(ids bigint[]) returns setof bigint
        language plpgsql security definer set search_path = public as $$
        -- Cancel orders that are open, and give back what they still hold; returns those that are cancelled, now or
        -- before. Where an engine matches, it must have let go of them first.
        begin
          perform from trade_order where id = any(ids) order by id for update;
          update trade_order set status = 'cancelled', ended_at = now() where id = any(ids) and status = 'open';
          perform release_holds(array(
            select h.id from trade_order o join hold h on h.cause = 'order' and h.cause_id = o.id
            where o.id = any(ids) and o.status = 'cancelled' and h.state = 'pending'), 'released');
          return query select id from trade_order where id = any(ids) and status = 'cancelled';
        end $$;

        revoke execute on function fill_orders, cancel_orders, hold_for_orders, end_of_day from public;
        """
    )
