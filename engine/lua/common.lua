-- Shared by every step: names of keys, the clock, the shapes that rq's own tools read.
local call = redis.call
local SCHEDULED, ENTRIES, ENTRY = 'rq:scheduler:scheduled_jobs', 'nightdesk:entries', 'nightdesk:entry:'
local RUNS, WAKE, WORKERS = 'nightdesk:runs', 'nightdesk:wake', 'nightdesk:workers'
local RUNNING, WAITING = 'nightdesk:running:', 'nightdesk:waiting:'
local FAILED_TTL = 86400 -- rq's failed registry is a one-day view; the dead letters are in PostgreSQL

call('SET', 'nightdesk:room', '') -- a full server refuses here, before anything is half done
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

local function hash(key) -- HGETALL as a table
  local flat, t = call('HGETALL', key), {}
  for i = 1, #flat, 2 do t[flat[i]] = flat[i + 1] end
  return t
end

local function record(row, data) -- one line of history; PostgreSQL gets it within a second
  if data then call('XADD', RUNS, '*', 'r', row, 'd', data) else call('XADD', RUNS, '*', 'r', row) end
end

-- Counters and histograms for /metrics: one hash, fields name|label (counter), name|label|le and name|label|sum.
local METRICS = 'nightdesk:metrics'
local BOUNDS = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300}

local function tally(name, label, by) call('HINCRBY', METRICS, name .. '|' .. label, by or 1) end

local function observe(name, label, seconds)
  local le = '+Inf'
  for _, bound in ipairs(BOUNDS) do
    if seconds <= bound then le = tostring(bound) break end
  end
  call('HINCRBY', METRICS, name .. '|' .. label .. '|' .. le, 1)
  call('HINCRBYFLOAT', METRICS, name .. '|' .. label .. '|sum', seconds)
end

local function push(id, queue, front)
  call(front and 'LPUSH' or 'RPUSH', 'rq:queue:' .. queue, id)
  call('SADD', 'rq:queues', 'rq:queue:' .. queue)
end

-- A slot of a limited key is free: what waits longest for it goes to the front of its queue.
local function release(limits, id)
  if not limits or limits == '' then return end
  for _, limit in ipairs(cjson.decode(limits)) do
    call('ZREM', RUNNING .. limit[1], id)
    local waiting = call('LPOP', WAITING .. limit[1])
    while waiting do
      local queue = call('HGET', 'rq:job:' .. waiting, 'origin')
      if queue then push(waiting, queue, true) break end
      waiting = call('LPOP', WAITING .. limit[1])
    end
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
  call('EXPIRE', key, ttl)
end

local function bury(id, queue, worker, exc_info) -- the last word on a run that nothing will try again
  local key = 'rq:job:' .. id
  call('HSET', key, 'status', 'failed', 'ended_at', iso(now))
  call('EXPIRE', key, FAILED_TTL)
  call('ZADD', 'rq:failed:' .. queue, math.floor(now / 1000) + FAILED_TTL, id)
  result(id, '2', 'exc_string', exc_info, worker, FAILED_TTL)
  call('HINCRBY', 'rq:worker:' .. worker, 'failed_job_count', 1)
end

-- Executions of a worker that died go back to the front of their queues, or are buried after the last try.
local function rescue(worker, reason, encoded, stopped)
  local rescued = 0
  for _, member in ipairs(call('SMEMBERS', 'rq:worker:' .. worker .. ':executions')) do
    local id, execution = string.match(member, '^(.*):([^:]*)$')
    local job = hash('rq:job:' .. id)
    local queue = job['origin'] or 'default'
    drop_execution(worker, id, execution, queue)
    if job['data'] then
      release(job['nd_limits'], id)
      tally('worker_runs_total', job['nd_entry'] or 'ad-hoc')
      tally('worker_errors_total', job['nd_entry'] or 'ad-hoc')
      local tries, last = call('HINCRBY', 'rq:job:' .. id, 'nd_tries', 1), tonumber(job['nd_max'] or '3')
      local dead = tries >= last or stopped == id
      record(cjson.encode({entry = job['nd_entry'], run = id, queue = queue, due = tonumber(job['nd_due']),
        attempt = tonumber(job['nd_attempt'] or '1'), enqueued = job['enqueued_at'], started = job['started_at'],
        ended = now, outcome = dead and 'failed' or 'lost', dead = dead, error = reason, worker = worker}), job['data'])
      if dead then
        bury(id, queue, worker, encoded)
      else
        call('HSET', 'rq:job:' .. id, 'status', 'queued')
        push(id, queue, true)
        call('PUBLISH', WAKE, queue)
      end
      rescued = rescued + 1
    end
  end
  call('DEL', 'rq:worker:' .. worker .. ':executions')
  return rescued
end
