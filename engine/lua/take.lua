-- Work-horse: finish the run in hand, then pop the next one straight into "started". One round trip a job.
-- ARGV: worker, JSON of what is finished or '', its row of history or '', JSON list of queues to pop from ([] = none),
-- id for the execution, number of this call, which rises: a call whose answer was lost is made again with the same
-- number and gets the same answer; one that was held up on its way and arrives after the next does nothing.
-- Returns {state, 1 if dependents wait for someone to enqueue them, and, if there is a run: job id, queue, now,
-- attempt, 1 if its payload is too large, fields of the job}; state is 'ok', 'fenced' when the run was taken from us,
-- 'unknown' when the worker must beat first, 'more' when none of the first thousand could be started but others wait,
-- 'late', or what went wrong while finishing, or while looking for retries.
local worker, finished, row, execution, number = ARGV[1], ARGV[2], ARGV[3], ARGV[5], tonumber(ARGV[6])
local worker_key = 'rq:worker:' .. worker
local known, state = call('ZSCORE', WORKERS, worker), 'ok'
local was = call('HMGET', worker_key, 'nd_call', 'state', 'total_working_time', 'successful_job_count')
local last = known and tonumber(was[1] or '') or 0
if number < last then return {'late', 0} end
local repeated = number == last
finished = finished ~= '' and not repeated and cjson.decode(finished)

if known then -- rq's counts too, in this one write: a full server refuses it before anything is half done
  local seconds, runs = tonumber(was[3] or '') or 0, tonumber(was[4] or '') or 0
  if finished then
    seconds = seconds + finished.seconds
    if finished.outcome == 'ok' then runs = runs + 1 end
  end
  call('HSET', worker_key, 'nd_call', ARGV[6], 'total_working_time', string.format('%.6f', seconds),
    'successful_job_count', string.format('%d', runs))
else
  room()
end

local function finish(f)
  local key = 'rq:job:' .. f.id
  if not drop_execution(worker, f.id, f.execution, f.queue) then
    if f.outcome == 'ok' and known then call('HINCRBY', worker_key, 'successful_job_count', -1) end
    -- If nothing is known of the run, Redis lost its memory and nobody else has it.
    if call('EXISTS', key) == 1 then state = 'fenced' elseif row ~= '' then record(row) end
    return
  end
  release(f.limits, f.id)
  if row ~= '' then
    record(row)
    local failed = f.outcome ~= 'ok' and f.outcome ~= 'yielded' and f.outcome ~= 'handed_back'
    measure(f.name, f.queue, failed, f.seconds, f.waited, f.late)
  end
  if f.outcome == 'ok' then
    if tell_dependents(f.id) and f.ttl == 0 then f.ttl = 60 end -- they look at it once more
    if f.ttl == 0 then
      call('DEL', key)
      return
    end
    call('HSET', key, 'status', 'finished', 'ended_at', iso(now))
    if f.ttl > 0 then call('EXPIRE', key, f.ttl) end
    call('ZADD', 'rq:finished:' .. f.queue, f.ttl > 0 and math.floor(now / 1000) + f.ttl or '+inf', f.id)
    if f.result then result(f.id, '1', 'return_value', f.result, worker, f.ttl) end
  elseif f.outcome == 'failed' or f.outcome == 'refused' then
    bury(f.id, f.queue, worker, f.exc)
  elseif call('EXISTS', key) == 1 then -- else another tool deleted it while it ran
    if f.outcome == 'retried' then
      call('HSET', key, 'status', 'scheduled', 'nd_tries', f.tries, 'nd_since', now)
      call('ZADD', 'rq:scheduled:' .. f.queue, (now + f.delay) / 1000, f.id)
    else -- yielded, handed back
      if f.limits ~= '' then call('HSET', key, 'nd_limits', f.limits) end
      push_again(f.id, f.queue)
    end
    hold_entry(f.id)
  end
end

if finished then
  local fine, problem = pcall(finish, finished)
  if not fine then -- a key of its own is not what it should be: the run has ended and costs only itself
    state = 'the end of ' .. finished.id .. ' is recorded in part: ' .. reason_of(problem)
    pcall(release, finished.limits, finished.id)
    if row ~= '' then record(row) end
    pcall(call, 'EXPIRE', 'rq:job:' .. finished.id, FAILED_TTL)
  end
end

local function look(id) -- the job's fields as payload.py reads them, then its queue and its status; is it too large?
  local h = call('HMGET', 'rq:job:' .. id, 'data', 'nd_due', 'nd_entry', 'nd_tries', 'nd_max', 'nd_limits', 'timeout',
    'enqueued_at', 'created_at', 'success_callback_name', 'failure_callback_name', 'stopped_callback_name', 'webhooks',
    'retries_left', 'result_ttl', 'origin', 'status', 'nd_attempt')
  local big = #(h[1] or '') > LARGEST_PAYLOAD
  if big then h[1] = '' end
  return h, big and 1 or 0
end

-- One look for all that most often is not there: a run in hand, rq's suspension, dependents, retries and what
-- `rq enqueue --schedule-in` left.
local queues, lists = cjson.decode(ARGV[4]), {}
local rare = {worker_key .. ':executions', 'rq:suspended', 'nightdesk:parents'}
for i, queue in ipairs(queues) do
  rare[#rare + 1] = 'rq:scheduled:' .. queue
  lists[i] = 'rq:queue:' .. queue
end
lists[#lists + 1] = 'LEFT'
rare = call('EXISTS', unpack(rare)) > 0

local function parents() return rare and call('EXISTS', 'nightdesk:parents') or 0 end

local function answer(id, queue, attempt, h, big) return {state, parents(), id, queue, now, attempt, big, h} end

-- Nothing else can be in hand: an answer was lost on its way, or a work-horse died with its call still travelling.
for _, member in ipairs(rare and call('SMEMBERS', worker_key .. ':executions') or {}) do
  local id, held = string.match(member, '^(.*):([^:]*)$')
  if held == execution then
    local h, big = look(id)
    if h[16] then return answer(id, call('HGET', 'rq:execution:' .. member, 'queue'), tonumber(h[18]), h, big) end
    -- Else another tool has deleted it since.
  end
  if not pcall(give_back, worker, member, 'lost', 'the answer that handed it out was lost', '', '') then
    call('SREM', worker_key .. ':executions', member)
  end
end

if #queues == 0 then return {state, parents()} end
if not known then return {state == 'ok' and 'unknown' or state, 0} end
if rare and call('EXISTS', 'rq:suspended') == 1 then return {state, 0} end

local function free(limit) return call('ZCARD', RUNNING .. limit[1]) < limit[2] end

local function full(limits, id) -- park behind the first limit that has no free slot
  for _, limit in ipairs(limits) do
    if not free(limit) then
      call('RPUSH', WAITING .. limit[1], id)
      call('HSET', LIMITS, limit[1], limit[2])
      for _, other in ipairs(limits) do -- whoever waits for a slot that this one was woken for may have it
        if other[1] ~= limit[1] and free(other) then wake(other[1]) end
      end
      return true
    end
  end
  for _, limit in ipairs(limits) do call('ZADD', RUNNING .. limit[1], now, id) end
  return false
end

local ENDED = {finished = true, failed = true, stopped = true, canceled = true}

local function start(id, queue)
  local key, member = 'rq:job:' .. id, id .. ':' .. execution
  local h, big = look(id)
  local entry, limits, origin, status, attempt = h[3], h[6], h[16], h[17], h[18] or '0'
  if not origin then return nil end -- deleted by another tool while it waited
  if ENDED[status] then return nil end -- queued twice: this is the second
  -- In somebody's hand, whatever another tool made of its status meanwhile.
  if (status == 'started' or attempt ~= '0') and call('EXISTS', 'rq:executions:' .. id) == 1 then return nil end
  if #id > 200 or string.find(id, '[^%w%p ]') then error('its id is no plain text of at most 200 characters', 0) end
  if #attempt > 9 or string.find(attempt, '%D') then error('nd_attempt is no number', 0) end
  if limits and limits ~= '' and full(cjson.decode(limits), id) then return nil end
  if entry and call('HGET', ENTRY .. entry, 'queued') == id then call('HDEL', ENTRY .. entry, 'queued') end
  attempt = tonumber(attempt) + 1
  local at = iso(now)
  call('HSET', key, 'status', 'started', 'started_at', at, 'last_heartbeat', at, 'worker_name', worker, 'nd_attempt', attempt)
  call('PERSIST', key)
  call('HSET', 'rq:execution:' .. member, 'id', execution, 'job_id', id, 'created_at', now / 1000, 'queue', queue,
    'last_heartbeat', now / 1000, 'worker_name', worker, 'limits', limits or '')
  call('ZADD', 'rq:executions:' .. id, '+inf', execution)
  call('ZADD', 'rq:wip:' .. queue, '+inf', member) -- never abandoned by a time-out: the reaper alone decides
  call('SADD', worker_key .. ':executions', member)
  if was[2] ~= 'busy' then call('HSET', worker_key, 'state', 'busy') end
  return answer(id, queue, attempt, h, big)
end

-- A run whose own keys are not what they should be is a dead letter, and costs only itself.
local function refuse(id, queue, problem)
  local key, plain = 'rq:job:' .. id, string.gsub(string.sub(id, 1, 200), '[^%w%p ]', '?')
  local _, limits = pcall(call, 'HGET', key, 'nd_limits')
  pcall(release, limits, id)
  pcall(drop_execution, worker, id, execution, queue)
  pcall(call, 'HSET', key, 'status', 'failed')
  call('EXPIRE', key, FAILED_TTL)
  record(cjson.encode({entry = plain, run = plain, queue = queue, due = now, attempt = 1, ended = now,
    outcome = 'refused', dead = true, error = 'Refused: ' .. problem, worker = worker}), '')
end

local more = false

local function queue_due(queue)
  local scheduled = 'rq:scheduled:' .. queue
  for _, id in ipairs(call('ZRANGEBYSCORE', scheduled, 0, now / 1000, 'LIMIT', 0, 16)) do
    call('ZREM', scheduled, id)
    if call('HEXISTS', 'rq:job:' .. id, 'origin') == 1 then
      call('HSET', 'rq:job:' .. id, 'status', 'queued')
      push(id, queue, true)
    end
  end
end

local function pop() -- the first run of the highest queue that can be started
  for _, queue in ipairs(rare and queues or {}) do
    local fine, problem = pcall(queue_due, queue)
    if not fine and state == 'ok' then state = 'what is due again in ' .. queue .. ' waits: ' .. reason_of(problem) end
  end
  for _ = 1, 1000 do
    local popped = call('LMPOP', #queues, unpack(lists))
    if not popped then return nil end
    local id, queue = popped[2][1], string.sub(popped[1], 10)
    local fine, started = pcall(start, id, queue)
    if not fine then
      refuse(id, queue, reason_of(started))
    elseif started then
      return started
    end
  end
  more = true
end

local function woken() -- a free slot that somebody waits for: its holder was deleted, or parked behind another limit
  local any = false
  local limits = call('HGETALL', LIMITS)
  for i = 1, #limits, 2 do
    if call('LLEN', WAITING .. limits[i]) == 0 then
      call('HDEL', LIMITS, limits[i])
    elseif free({limits[i], tonumber(limits[i + 1])}) then
      any = wake(limits[i]) or any
    end
  end
  return any
end

for round = 1, 2 do
  if round == 2 and not woken() then break end
  local started = pop()
  if started then return started end
end
if more and state == 'ok' then state = 'more' end
if was[2] ~= 'idle' then call('HSET', worker_key, 'state', 'idle') end
return {state, parents()}
