-- Scheduler: for each due entry compare its due time and version, move it to its next due time, enqueue a run.
-- ARGV[1]: JSON list of {id, due, version, next, run (ms or null), missed {reason, first, last, count} or null}.
-- Returns JSON {now, results}: 'run', 'skip', 'early', 'changed' or 'gone' per entry, the due time if another
-- scheduler was first, or an error's text.
pulse()

local function skip(entry, key, reason, first, last, count, h)
  local added = count
  if h.reason == reason then -- the streak goes on: one row with a count
    first, count = tonumber(h.first), tonumber(h.count) + count
    -- Its earlier line, if it still waits, says less than this one: they must not pile up while PostgreSQL is away.
    if h.line then call('XDEL', RUNS, h.line) end
  end
  tally('schedule_missed_total', reason, added)
  h.reason, h.first, h.count = reason, first, count
  h.line = record(cjson.encode({kind = 'skip', entry = entry, reason = reason, first = first, last = last, count = count}))
  call('HSET', key, 'skip_reason', reason, 'skip_first', first, 'skip_count', count, 'skip_line', h.line)
end

local made -- the run that this call is about to enqueue

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
    'skip_count', 'skip_line', 'again_until')
  if not f[1] then return 'gone' end
  if tonumber(f[2]) ~= e.version then return 'changed' end
  if tonumber(f[1]) ~= e.due then return tonumber(f[1]) end -- another scheduler was first
  local missed, run = e.missed ~= cjson.null and e.missed, e.run ~= cjson.null and e.run
  -- A scheduler whose idea of the time is wrong must not move an entry past what is due.
  if math.max(e.due, run or 0, missed and missed.last or 0) > now then return 'early' end
  call('HSET', key, 'due', e.next)
  call('ZADD', SCHEDULED, e.next / 1000, e.id)
  local h = {reason = f[7], first = f[8], count = f[9], line = f[10]}
  if missed then
    skip(e.id, key, e.missed.reason, e.missed.first, e.missed.last, e.missed.count, h)
  end
  if not run then return 'skip' end
  if f[3] == '1' then
    skip(e.id, key, 'paused', e.run, e.run, 1, h)
    return 'skip'
  end
  local running = call('ZCARD', RUNNING .. 'entry:' .. e.id) > 0
  local queued = still_waits(f[4])
  if (f[5] == 'skip' and (running or queued)) or (f[5] == 'queue' and queued) then
    skip(e.id, key, 'overlap', e.run, e.run, 1, h)
    return 'skip'
  end
  local id = e.id .. '-' .. string.format('%d', e.run)
  if run < tonumber(f[11] or '0') then id = id .. '-again' end -- the clock was set back: this instant comes twice
  local job = 'rq:job:' .. id
  if call('COPY', key .. ':run', job) == 0 then
    if call('HEXISTS', job, 'nd_due') == 1 then return 'skip' end -- enqueued before a rewind of the entry
    template(key, e.id)
    call('COPY', key .. ':run', job)
  end
  made = job
  call('HSET', job, 'nd_due', e.run, 'created_at', at, 'enqueued_at', at)
  call('RPUSH', 'rq:queue:' .. f[6], id)
  call('HSET', key, 'queued', id)
  if h.reason then call('HDEL', key, 'skip_reason', 'skip_first', 'skip_count', 'skip_line') end
  made = nil
  return 'run', f[6]
end

-- A key is not what it should be: the due time is recorded as failed, if the entry could be moved past it.
local function failed(e, key)
  if made then call('DEL', made) end
  call('DEL', key .. ':run')
  if tonumber(call('HGET', key, 'due') or '') ~= e.next then return end
  local due = e.run ~= cjson.null and e.run or e.due
  record(cjson.encode({kind = 'skip', entry = e.id, reason = 'failed', first = due, last = due, count = 1}))
  tally('schedule_missed_total', 'failed', 1)
end

local results, queues = {}, {}
for i, e in ipairs(cjson.decode(ARGV[1])) do
  made = nil
  local fine, outcome, queue = pcall(fire, e) -- a poisoned key costs its own entry, not the others
  if not fine then pcall(failed, e, ENTRY .. e.id) end
  results[i] = fine and outcome or ('error: ' .. reason_of(outcome))
  if queue then queues[queue] = true end
end
for queue in pairs(queues) do
  call('SADD', 'rq:queues', 'rq:queue:' .. queue)
  call('PUBLISH', WAKE, queue)
end
return cjson.encode({now = now, results = results})
