-- Worker's parent: I live; and who does not? ARGV: worker, key TTL (s), since when Redis has answered me without
-- a break (ms, 0 = not known), seconds after which a silent worker is dead, reason, its rq encoding.
-- A reaper that was itself cut off knows nothing of the others, so it waits as long as they may be silent.
-- Returns {now, 1 if this worker was declared dead meanwhile, JSON list of the dead}.
local worker, since, limit = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4]) * 1000
local fresh = call('EXISTS', 'rq:worker:' .. worker) == 0
call('HSET', 'rq:worker:' .. worker, 'last_heartbeat', iso(now))
call('EXPIRE', 'rq:worker:' .. worker, ARGV[2])
call('ZADD', WORKERS, now, worker)
local dead = {}
if since > 0 and now - since >= limit then
  for _, name in ipairs(call('ZRANGEBYSCORE', WORKERS, '-inf', '(' .. (now - limit))) do
    local rescued = rescue(name, ARGV[5], ARGV[6])
    call('ZREM', WORKERS, name)
    for _, key in ipairs(call('SMEMBERS', 'rq:queues')) do
      call('SREM', 'rq:workers:' .. string.sub(key, 10), 'rq:worker:' .. name)
    end
    call('SREM', 'rq:workers', 'rq:worker:' .. name)
    call('DEL', 'rq:worker:' .. name)
    dead[#dead + 1] = {name, rescued}
  end
end
return {now, fresh and 1 or 0, cjson.encode(dead)}
