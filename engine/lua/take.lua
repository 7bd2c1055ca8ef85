-- Work-horse: finish the run in hand, then pop the next one straight into "started". One round trip a job.
-- ARGV: worker, JSON of what is finished or '', JSON list of queues to pop from ([] = none), id for the execution.
-- Returns {state, job id, queue, fields of the job …}; state: 'ok', or 'fenced' when the run was taken from us.
local worker, finished, execution = ARGV[1], ARGV[2], ARGV[4]
local worker_key = 'rq:worker:' .. worker
local state = 'ok'

local function finish(f)
  local key = 'rq:job:' .. f.id
  if not drop_execution(worker, f.id, f.execution, f.queue) then state = 'fenced' return end
  release(f.limits, f.id)
  if f.row then
    record(f.row)
    tally('worker_runs_total', f.name)
    if f.outcome ~= 'ok' and f.outcome ~= 'yielded' and f.outcome ~= 'handed_back' then
      tally('worker_errors_total', f.name)
    end
    observe('worker_duration_seconds', f.name, f.seconds)
    observe('queue_latency_seconds', f.queue, f.waited)
    if f.late then observe('schedule_lateness_seconds', f.name, f.late) end
  end
  call('HINCRBYFLOAT', worker_key, 'total_working_time', f.seconds)
  if f.outcome == 'ok' then
    call('HINCRBY', worker_key, 'successful_job_count', 1)
    if f.ttl == 0 then
      call('DEL', key)
      return
    end
    call('HSET', key, 'status', 'finished', 'ended_at', iso(now))
    call('EXPIRE', key, f.ttl)
    call('ZADD', 'rq:finished:' .. f.queue, math.floor(now / 1000) + f.ttl, f.id)
    if f.result then result(f.id, '1', 'return_value', f.result, worker, f.ttl) end
  elseif f.outcome == 'retried' then
    call('HSET', key, 'status', 'scheduled', 'nd_tries', f.tries)
    call('ZADD', 'rq:scheduled:' .. f.queue, (now + f.delay) / 1000, f.id)
  elseif f.outcome == 'yielded' or f.outcome == 'handed_back' then
    call('HSET', key, 'status', 'queued')
    if f.limits ~= '' then call('HSET', key, 'nd_limits', f.limits) end
    push(f.id, f.queue, true)
    call('PUBLISH', WAKE, f.queue)
  else
    bury(f.id, f.queue, worker, f.exc)
  end
end

if finished ~= '' then finish(cjson.decode(finished)) end

local queues = cjson.decode(ARGV[3])
if #queues == 0 or call('EXISTS', 'rq:suspended') == 1 then return {state} end

local function full(limits, id) -- park behind the first limit that has no free slot
  for _, limit in ipairs(limits) do
    if call('ZCARD', RUNNING .. limit[1]) >= limit[2] then
      call('RPUSH', WAITING .. limit[1], id)
      return true
    end
  end
  for _, limit in ipairs(limits) do call('ZADD', RUNNING .. limit[1], now, id) end
  return false
end

local function start(id, queue)
  local key, member = 'rq:job:' .. id, id .. ':' .. execution
  local f = call('HMGET', key, 'nd_entry', 'nd_limits', 'origin')
  if not f[3] then return nil end -- deleted by another tool while it waited
  if f[2] and f[2] ~= '' and full(cjson.decode(f[2]), id) then return nil end
  if f[1] and call('HGET', ENTRY .. f[1], 'queued') == id then call('HDEL', ENTRY .. f[1], 'queued') end
  local attempt = call('HINCRBY', key, 'nd_attempt', 1)
  local at = iso(now)
  call('HSET', key, 'status', 'started', 'started_at', at, 'last_heartbeat', at, 'worker_name', worker)
  call('PERSIST', key)
  call('HSET', 'rq:execution:' .. member, 'id', execution, 'job_id', id, 'created_at', now / 1000,
    'last_heartbeat', now / 1000, 'worker_name', worker)
  call('ZADD', 'rq:executions:' .. id, '+inf', execution)
  call('ZADD', 'rq:wip:' .. queue, '+inf', member) -- never abandoned by a time-out: the reaper alone decides
  call('SADD', worker_key .. ':executions', member)
  call('HSET', worker_key, 'state', 'busy')
  local big = call('HSTRLEN', key, 'data') > 262144
  local h = call('HMGET', key, big and '' or 'data', 'nd_due', 'nd_entry', 'nd_tries', 'nd_max', 'nd_limits', 'timeout',
    'enqueued_at', 'created_at', 'success_callback_name', 'failure_callback_name', 'stopped_callback_name', 'webhooks',
    'retries_left', 'result_ttl')
  return {state, id, queue, now, attempt, big and 1 or 0, h}
end

for _, queue in ipairs(queues) do
  local scheduled = 'rq:scheduled:' .. queue -- retries, and what `rq enqueue --schedule-in` left there
  for _, id in ipairs(call('ZRANGEBYSCORE', scheduled, 0, now / 1000, 'LIMIT', 0, 16)) do
    call('ZREM', scheduled, id)
    call('HSET', 'rq:job:' .. id, 'status', 'queued')
    push(id, queue, true)
  end
  for _ = 1, 1000 do
    local id = call('LPOP', 'rq:queue:' .. queue)
    if not id then break end
    local started = start(id, queue)
    if started then return started end
  end
end
call('HSET', worker_key, 'state', 'idle')
return {state}
