-- Shared by every step: names of keys, the clock, the shapes that rq's own tools read.
local call = redis.call
local SCHEDULED, ENTRIES, ENTRY = 'rq:scheduler:scheduled_jobs', 'nightdesk:entries', 'nightdesk:entry:'
local RUNS, WAKE, WORKERS = 'nightdesk:runs', 'nightdesk:wake', 'nightdesk:workers'
local RUNNING, WAITING, LIMITS = 'nightdesk:running:', 'nightdesk:waiting:', 'nightdesk:limits'
local FAILED_TTL = 86400 -- rq's failed registry is a one-day view; the dead letters are in PostgreSQL
local LARGEST_PAYLOAD = 262144 -- bytes; the same figure stands in steps.py

local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000) -- ms, the one clock for what is due

local function iso(ms) -- as rq writes instants; civil date from days after H. Hinnant's days_from_civil
  local days, rest = math.floor(ms / 86400000), ms % 86400000
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local d, m = doy - math.floor((153 * mp + 2) / 5) + 1, mp < 10 and mp + 3 or mp - 9
  local y = yoe + era * 400 + (m <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03d000Z', y, m, d,
    math.floor(rest / 3600000), math.floor(rest / 60000) % 60, math.floor(rest / 1000) % 60, rest % 1000)
end

-- A full server refuses here, before anything is half done: for steps whose first write it would let through.
local function room() call('SET', 'nightdesk:room', '') end

-- A retry that began to wait when the clock was ahead begins to wait anew: late by its own wait at the most, never early.
local function wait_anew(queue)
  local scheduled = 'rq:scheduled:' .. queue
  local waits = call('ZRANGE', scheduled, 0, -1, 'WITHSCORES')
  for i = 1, #waits, 2 do
    local key = 'rq:job:' .. waits[i]
    local since = tonumber(call('HGET', key, 'nd_since') or '') -- none: another tool said when, not for how long
    if since and since > now then
      call('ZADD', scheduled, (now + waits[i + 1] * 1000 - since) / 1000, waits[i])
      call('HSET', key, 'nd_since', now)
    end
  end
end

-- Since when somebody has been heard of without a gap (ms).
local function pulse()
  local p = call('HMGET', 'nightdesk:pulse', 'at', 'since')
  local at, since = tonumber(p[1] or ''), tonumber(p[2] or '')
  if at and now < at then -- the clock was set back
    for _, key in ipairs(call('SMEMBERS', 'rq:queues')) do pcall(wait_anew, string.sub(key, 10)) end
  end
  if not at or not since or now - at > 5000 or now < at then since = now end
  call('HSET', 'nightdesk:pulse', 'at', now, 'since', since)
  return since
end

local function reason_of(problem) -- what pcall gave, as text
  return tostring(type(problem) == 'table' and problem.err or problem)
end

local function record(row, data) -- one line of history; PostgreSQL gets it within a second
  if data then return call('XADD', RUNS, '*', 'r', row, 'd', data) end
  return call('XADD', RUNS, '*', 'r', row)
end

-- Counters and histograms for /metrics: one hash, fields name|label (counter), name|label|le and name|label|sum.
-- What a run measured waits in a list and is added up in portions: a dozen additions a run would cost as much as
-- all the rest of its end. What cannot be counted costs its count, and no run and no beat.
local METRICS, MEASURED = 'nightdesk:metrics', 'nightdesk:measured'
local BOUNDS = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300}

local function tally(name, label, by) pcall(call, 'HINCRBY', METRICS, name .. '|' .. label, by or 1) end

local function add_up()
  local counts, sums = {}, {}
  local function observe(name, label, seconds)
    local le, field = '+Inf', name .. '|' .. label .. '|'
    for _, bound in ipairs(BOUNDS) do
      if seconds <= bound then le = tostring(bound) break end
    end
    counts[field .. le] = (counts[field .. le] or 0) + 1
    sums[field .. 'sum'] = (sums[field .. 'sum'] or 0) + seconds
  end
  local function count(measured)
    local name, queue, failed, seconds, waited, late = unpack(cmsgpack.unpack(measured))
    counts['worker_runs_total|' .. name] = (counts['worker_runs_total|' .. name] or 0) + 1
    if failed then counts['worker_errors_total|' .. name] = (counts['worker_errors_total|' .. name] or 0) + 1 end
    observe('worker_duration_seconds', name, seconds)
    observe('queue_latency_seconds', queue, waited)
    if late then observe('schedule_lateness_seconds', name, late) end
  end
  local fine, all = pcall(call, 'LRANGE', MEASURED, 0, -1)
  for _, measured in ipairs(fine and all or {}) do pcall(count, measured) end
  call('DEL', MEASURED)
  local fields, values = {}, {}
  for field in pairs(counts) do fields[#fields + 1] = field end
  for field, by in pairs(sums) do
    fields[#fields + 1], counts[field] = field, by
  end
  if #fields == 0 then return end
  local fine, had = pcall(call, 'HMGET', METRICS, unpack(fields))
  for i, field in ipairs(fine and fields or {}) do
    values[2 * i - 1], values[2 * i] = field, string.format('%.16g', (tonumber(had[i] or '') or 0) + counts[field])
  end
  if fine then call('HSET', METRICS, unpack(values)) end
end

local function measure(name, queue, failed, seconds, waited, late)
  local fine, many = pcall(call, 'RPUSH', MEASURED, cmsgpack.pack({name, queue, failed, seconds, waited, late}))
  if not fine or many >= 256 then add_up() end -- else the next beat does
end

local function push(id, queue, front)
  call(front and 'LPUSH' or 'RPUSH', 'rq:queue:' .. queue, id)
  call('SADD', 'rq:queues', 'rq:queue:' .. queue)
end

local function push_again(id, queue)
  call('HSET', 'rq:job:' .. id, 'status', 'queued')
  push(id, queue, true)
  call('PUBLISH', WAKE, queue)
end

local function still_waits(id) -- another tool may have deleted or cancelled it
  local status = id and call('HGET', 'rq:job:' .. id, 'status')
  return status == 'queued' or status == 'scheduled'
end

-- The entry knows of a run that waits again: due times until then count as overlap and do not pile up.
local function hold_entry(id)
  local entry = call('HGET', 'rq:job:' .. id, 'nd_entry')
  if not entry or entry == '' or call('EXISTS', ENTRY .. entry) == 0 then return end
  if not still_waits(call('HGET', ENTRY .. entry, 'queued')) then call('HSET', ENTRY .. entry, 'queued', id) end
end

-- A slot of a limited key is free: what waits longest for it goes to the front of its queue.
local function wake(limit)
  local waiting = call('LPOP', WAITING .. limit)
  while waiting do
    local queue = call('HGET', 'rq:job:' .. waiting, 'origin')
    if queue then
      push(waiting, queue, true)
      call('PUBLISH', WAKE, queue)
      return true
    end
    waiting = call('LPOP', WAITING .. limit)
  end
  return false
end

local function release(limits, id)
  if not limits or limits == '' then return end
  for _, limit in ipairs(cjson.decode(limits)) do
    if call('ZREM', RUNNING .. limit[1], id) == 1 then wake(limit[1]) end
  end
end

-- Drop what rq's data model says about a running execution. False: it was taken from this worker.
local function drop_execution(worker, id, execution, queue)
  local member = id .. ':' .. execution
  if call('SREM', 'rq:worker:' .. worker .. ':executions', member) == 0 then return false end
  call('ZREM', 'rq:wip:' .. queue, member)
  call('DEL', 'rq:execution:' .. member, 'rq:executions:' .. id)
  return true
end

-- rq's result stream: type 1 successful, 2 failed; the value as rq encodes it.
local function result(id, kind, field, value, worker, ttl)
  local key = 'rq:results:' .. id
  call('XADD', key, 'MAXLEN', '~', '10', '*', 'type', kind, 'created_at', iso(now), field, value, 'worker_name', worker)
  if ttl > 0 then call('EXPIRE', key, ttl) end
end

-- Jobs of rq's that wait for this one's end; a work-horse sees to them with rq's own code.
local function tell_dependents(id)
  if call('EXISTS', 'rq:job:' .. id .. ':dependents') == 0 then return false end
  call('SADD', 'nightdesk:parents', id)
  return true
end

local function bury(id, queue, worker, exc_info) -- the last word on a run that nothing will try again
  local key = 'rq:job:' .. id
  call('HSET', key, 'status', 'failed', 'ended_at', iso(now), 'nd_told', 1) -- in history: see strangers.lua
  call('EXPIRE', key, FAILED_TTL)
  call('ZADD', 'rq:failed:' .. queue, math.floor(now / 1000) + FAILED_TTL, id)
  result(id, '2', 'exc_string', exc_info, worker, FAILED_TTL)
  tell_dependents(id)
  if call('EXISTS', 'rq:worker:' .. worker) == 1 then call('HINCRBY', 'rq:worker:' .. worker, 'failed_job_count', 1) end
end

-- What the history says of a run that no work-horse of ours ended, and what it says it of; see models/runs.py.
local function fields_of(id)
  return call('HMGET', 'rq:job:' .. id, 'origin', 'nd_tries', 'nd_max', 'nd_entry', 'nd_due', 'nd_attempt',
    'enqueued_at', 'started_at')
end

local function tell_end(id, f, outcome, dead, reason, worker)
  local key = 'rq:job:' .. id
  local data = call('HSTRLEN', key, 'data') <= LARGEST_PAYLOAD and call('HGET', key, 'data') or ''
  record(cjson.encode({entry = f[4] or nil, run = id, queue = f[1], due = tonumber(f[5] or ''),
    attempt = tonumber(f[6] or '1'), enqueued = f[7] or nil, started = f[8] or nil, ended = now, outcome = outcome,
    dead = dead, error = reason, worker = worker}), data)
end

local function tally_failed(name)
  tally('worker_runs_total', name)
  tally('worker_errors_total', name)
end

-- One execution of a worker that will not end it: back to the front of its queue, or buried after the last try.
-- kind: 'lost' counts as a try, 'handed_back' does not; stopped: the id of a run that an operator stopped, or ''.
local function give_back(worker, member, kind, reason, encoded, stopped)
  local id, execution = string.match(member, '^(.*):([^:]*)$')
  local notes = call('HMGET', 'rq:execution:' .. member, 'queue', 'limits')
  local key = 'rq:job:' .. id
  local f = fields_of(id)
  drop_execution(worker, id, execution, notes[1] or f[1] or 'default')
  release(notes[2], id)
  if not f[1] then return end -- another tool deleted it while it ran
  if kind == 'lost' then tally_failed(f[4] or 'ad-hoc') end
  local tries = tonumber(f[2] or '0')
  if kind == 'lost' then tries = call('HINCRBY', key, 'nd_tries', 1) end
  local dead = stopped == id or (kind == 'lost' and tries >= (tonumber(f[3] or '') or 3))
  tell_end(id, f, dead and 'failed' or kind, dead, reason, worker)
  if dead then
    bury(id, f[1], worker, encoded)
  else
    push_again(id, f[1])
    hold_entry(id)
  end
end

-- Give back all that a worker has in hand; what cannot be read costs only itself.
local function rescue(worker, kind, reason, encoded, stopped)
  local key, rescued = 'rq:worker:' .. worker .. ':executions', 0
  for _, member in ipairs(call('SMEMBERS', key)) do
    local known, queue = pcall(call, 'HGET', 'rq:execution:' .. member, 'queue')
    local fine, problem = pcall(give_back, worker, member, kind, reason, encoded, stopped)
    if fine then
      rescued = rescued + 1
    else
      call('SREM', key, member)
      record(cjson.encode({run = member, queue = known and queue or 'default', due = now, attempt = 1, ended = now, outcome = 'failed',
        dead = true, error = reason .. '; it cannot be given back: ' .. reason_of(problem), worker = worker}), '')
    end
  end
  return rescued
end
