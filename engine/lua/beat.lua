-- Worker's parent: I live; and who does not? ARGV: worker, key TTL (s), seconds after which a silent worker is dead,
-- reason, its rq encoding, seconds for which somebody must have been heard of without a gap before that, when this was
-- sent (ms, 0 = that is not known, -1 = by one who was cut off himself).
-- Silence means death only if it could have been broken: where nobody was heard of, Redis was away, and whoever lives
-- is given the time to say so; and where this call was long on its way, others may be, too.
-- Returns {what we are to the others, now (ms), JSON list of the dead}; we are 'known', 'dead' (our runs were given back),
-- 'forgotten' (Redis lost its memory, or this is our first beat) or 'unlisted' (rq's own key of us is gone).
room()
local worker, limit, sent = ARGV[1], tonumber(ARGV[3]) * 1000, tonumber(ARGV[7])
local standing = 'known'
if call('DEL', 'nightdesk:dead:' .. worker) == 1 then standing = 'dead'
elseif not call('ZSCORE', WORKERS, worker) then standing = 'forgotten'
elseif call('HEXISTS', 'rq:worker:' .. worker, 'birth') == 0 then standing = 'unlisted' end
if call('EXISTS', 'rq:worker:' .. worker) == 1 then
  call('HSET', 'rq:worker:' .. worker, 'last_heartbeat', iso(now))
  call('EXPIRE', 'rq:worker:' .. worker, ARGV[2])
end
if standing ~= 'dead' then call('ZADD', WORKERS, now, worker) end -- else its horse takes nothing until it is replaced
local dead = {}
if now - pulse() >= tonumber(ARGV[6]) * 1000 and (sent == 0 or now - sent < 2000) and sent >= 0 then
  local silent = call('ZRANGEBYSCORE', WORKERS, '-inf', '(' .. (now - limit))
  -- Nor has whoever's last beat is ahead of us beaten since the clock was set back.
  for _, name in ipairs(call('ZRANGEBYSCORE', WORKERS, '(' .. (now + limit), '+inf')) do silent[#silent + 1] = name end
  for _, name in ipairs(silent) do
    local rescued = rescue(name, 'lost', ARGV[4], ARGV[5], '')
    call('ZREM', WORKERS, name)
    call('SET', 'nightdesk:dead:' .. name, now, 'EX', 86400)
    for _, key in ipairs(call('SMEMBERS', 'rq:queues')) do
      call('SREM', 'rq:workers:' .. string.sub(key, 10), 'rq:worker:' .. name)
    end
    call('SREM', 'rq:workers', 'rq:worker:' .. name)
    call('DEL', 'rq:worker:' .. name)
    dead[#dead + 1] = {name, rescued}
  end
end
for _, key in ipairs(call('SMEMBERS', 'rq:queues')) do -- rq forgets what expired when somebody looks; nobody may
  local queue = string.sub(key, 10)
  call('ZREMRANGEBYSCORE', 'rq:finished:' .. queue, '-inf', now / 1000)
  call('ZREMRANGEBYSCORE', 'rq:failed:' .. queue, '-inf', now / 1000)
end
add_up()
return {standing, now, cjson.encode(dead)}
