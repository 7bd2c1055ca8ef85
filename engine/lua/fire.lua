-- Scheduler: for each due entry compare its due time and version, move it to its next due time, enqueue a run.
-- ARGV[1]: JSON list of {id, due, version, next, run (ms or null), missed {reason, first, last, count} or null}.
-- Returns JSON {now, results}: 'run', 'skip', 'early', 'changed' or 'gone' per entry, the due time if another
-- scheduler was first, or an error's text.

local function skip(entry, key, reason, first, last, count, h)
  local added = count
  if h.reason == reason then -- the streak goes on: one row with a count
    first, count = tonumber(h.first), tonumber(h.count) + count
  end
  tally('schedule_missed_total', reason, added)
  h.reason, h.first, h.count = reason, first, count
  call('HSET', key, 'skip_reason', reason, 'skip_first', first, 'skip_count', count)
  record(cjson.encode({kind = 'skip', entry = entry, reason = reason, first = first, last = last, count = count}))
end

local function in_flight(entry, queued) -- queued: the run that waits; stale if another tool deleted it
  return queued and call('EXISTS', 'rq:job:' .. queued) == 1
end

-- What does not change from run to run: copied, it costs half of being written. declare.lua drops it with each change.
local function template(key, entry)
  local f = call('HMGET', key, 'tries', 'limits', 'data', 'queue', 'description', 'timeout')
  call('HSET', key .. ':run', 'nd_entry', entry, 'nd_max', f[1], 'nd_limits', f[2], 'data', f[3], 'origin', f[4],
    'description', f[5], 'timeout', f[6], 'status', 'queued')
end

local at = iso(now)

local function fire(e)
  local key = ENTRY .. e.id
  local f = call('HMGET', key, 'due', 'version', 'paused', 'queued', 'overlap', 'queue', 'skip_reason', 'skip_first',
    'skip_count')
  if not f[1] then return 'gone' end
  if tonumber(f[2]) ~= e.version then return 'changed' end
  if tonumber(f[1]) ~= e.due then return tonumber(f[1]) end -- another scheduler was first
  if e.due > now then return 'early' end
  call('HSET', key, 'due', e.next)
  call('ZADD', SCHEDULED, e.next / 1000, e.id)
  local h = {reason = f[7], first = f[8], count = f[9]}
  if e.missed ~= cjson.null and e.missed then
    skip(e.id, key, e.missed.reason, e.missed.first, e.missed.last, e.missed.count, h)
  end
  if e.run == cjson.null or not e.run then return 'skip' end
  if f[3] == '1' then
    skip(e.id, key, 'paused', e.run, e.run, 1, h)
    return 'skip'
  end
  local running = call('ZCARD', RUNNING .. 'entry:' .. e.id) > 0
  local queued = in_flight(e.id, f[4])
  if (f[5] == 'skip' and (running or queued)) or (f[5] == 'queue' and queued) then
    skip(e.id, key, 'overlap', e.run, e.run, 1, h)
    return 'skip'
  end
  local id = e.id .. '-' .. string.format('%d', e.run)
  local job = 'rq:job:' .. id
  if call('COPY', key .. ':run', job) == 0 then
    if call('EXISTS', job) == 1 then return 'skip' end -- enqueued before a rewind of the entry
    template(key, e.id)
    call('COPY', key .. ':run', job)
  end
  call('HSET', job, 'nd_due', e.run, 'created_at', at, 'enqueued_at', at)
  call('RPUSH', 'rq:queue:' .. f[6], id)
  call('HSET', key, 'queued', id)
  if h.reason then call('HDEL', key, 'skip_reason', 'skip_first', 'skip_count') end
  return 'run', f[6]
end

local results, queues = {}, {}
for i, e in ipairs(cjson.decode(ARGV[1])) do
  local fine, outcome, queue = pcall(fire, e) -- a poisoned key costs its own entry, not the others
  results[i] = fine and outcome or ('error: ' .. tostring(type(outcome) == 'table' and outcome.err or outcome))
  if queue then queues[queue] = true end
end
for queue in pairs(queues) do
  call('SADD', 'rq:queues', 'rq:queue:' .. queue)
  call('PUBLISH', WAKE, queue)
end
return cjson.encode({now = now, results = results})
