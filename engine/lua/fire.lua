-- Scheduler: for each due entry compare its due time and version, move it to its next due time, enqueue a run.
-- ARGV[1]: JSON list of {id, due, version, next, run (ms or null), missed {reason, first, last, count} or null}.
-- Returns JSON {now, results}: 'run', 'skip', 'early', 'changed' or 'gone' per entry, the due time if another
-- scheduler was first, or an error's text.
pulse()

local function skip(entry, key, reason, first, last, count)
  local added, streak = count, call('HMGET', key, 'skip_reason', 'skip_first', 'skip_count', 'skip_line')
  if streak[1] == reason then -- it goes on: one row with a count
    first, count = tonumber(streak[2]), tonumber(streak[3]) + count
    -- Its earlier line, if it still waits, says less than this one: they must not pile up while PostgreSQL is away.
    if streak[4] then call('XDEL', RUNS, streak[4]) end
  end
  tally('schedule_missed_total', reason, added)
  local line = record(cjson.encode({kind = 'skip', entry = entry, reason = reason, first = first, last = last, count = count}))
  call('HSET', key, 'skip_reason', reason, 'skip_first', first, 'skip_count', count, 'skip_line', line)
end

local made -- the run that is about to be enqueued
local moved = {} -- next due times, each with its entry, as rq-scheduler's list takes them

-- What does not change from run to run: copied, it costs half of being written. declare.lua drops it with each change.
local function template(key, entry)
  local f = call('HMGET', key, 'tries', 'limits', 'data', 'queue', 'description', 'timeout')
  call('HSET', key .. ':run', 'nd_entry', entry, 'nd_max', f[1], 'nd_limits', f[2], 'data', f[3], 'origin', f[4],
    'description', f[5], 'timeout', f[6], 'status', 'queued')
end

local orders, held = cjson.decode(ARGV[1]), {}
for i, e in ipairs(orders) do held[i] = RUNNING .. 'entry:' .. e.id end
-- Most often none of their runs goes on, and one question will do.
local none_runs = #held > 0 and #held <= 1000 and call('EXISTS', unpack(held)) == 0

local function unwanted(id, paused, queued, overlap)
  if paused == '1' then return 'paused' end
  local running, waits = not none_runs and call('ZCARD', RUNNING .. 'entry:' .. id) > 0, still_waits(queued)
  if (overlap == 'skip' and (running or waits)) or (overlap == 'queue' and waits) then return 'overlap' end
end

local at = iso(now)

local function fire(e)
  local key = ENTRY .. e.id
  local f = call('HMGET', key, 'due', 'version', 'paused', 'queued', 'overlap', 'queue', 'skip_reason', 'again_until')
  if not f[1] then return 'gone' end
  if tonumber(f[2]) ~= e.version then return 'changed' end
  if tonumber(f[1]) ~= e.due then return tonumber(f[1]) end -- another scheduler was first
  local missed, run = e.missed ~= cjson.null and e.missed, e.run ~= cjson.null and e.run
  -- A scheduler whose idea of the time is wrong must not move an entry past what is due.
  if math.max(e.due, run or 0, missed and missed.last or 0) > now then return 'early' end
  moved[#moved + 1] = e.next / 1000
  moved[#moved + 1] = e.id
  if missed then skip(e.id, key, missed.reason, missed.first, missed.last, missed.count) end
  local why_not = run and unwanted(e.id, f[3], f[4], f[5])
  if why_not then skip(e.id, key, why_not, run, run, 1) end
  if why_not or not run then
    call('HSET', key, 'due', e.next)
    return 'skip'
  end
  local id = e.id .. '-' .. string.format('%d', e.run)
  if run < tonumber(f[8] or '0') then id = id .. '-again' end -- the clock was set back: this instant comes twice
  local job = 'rq:job:' .. id
  if call('COPY', key .. ':run', job) == 0 then
    if call('HEXISTS', job, 'nd_due') == 1 then -- enqueued before a rewind of the entry
      call('HSET', key, 'due', e.next)
      return 'skip'
    end
    template(key, e.id)
    call('COPY', key .. ':run', job)
  end
  made = job
  call('HSET', job, 'nd_due', e.run, 'created_at', at, 'enqueued_at', at)
  call('HSET', key, 'due', e.next, 'queued', id)
  if f[7] or missed then call('HDEL', key, 'skip_reason', 'skip_first', 'skip_count', 'skip_line') end
  return 'run', 'rq:queue:' .. f[6], id
end

-- A key is not what it should be: the entry is moved past the due time, if it can be, and that is recorded as failed.
local function failed(e, key)
  if made then call('DEL', made) end
  call('DEL', key .. ':run')
  call('HSET', key, 'due', e.next)
  local due = e.run ~= cjson.null and e.run or e.due
  record(cjson.encode({kind = 'skip', entry = e.id, reason = 'failed', first = due, last = due, count = 1}))
  tally('schedule_missed_total', 'failed', 1)
end

local results, queues = {}, {}

local function fail(i, e, problem) -- a poisoned key costs its own entry, not the others
  pcall(failed, e, ENTRY .. e.id)
  results[i] = 'error: ' .. reason_of(problem)
end

for i, e in ipairs(orders) do
  made = nil
  local fine, outcome, queue, id = pcall(fire, e)
  if not fine then fail(i, e, outcome) else results[i] = outcome end
  if fine and queue then
    queues[queue] = queues[queue] or {ids = {}, runs = {}}
    table.insert(queues[queue].ids, id)
    table.insert(queues[queue].runs, {i, e, made})
  end
end

local function in_portions(command, key, values) -- Lua passes some thousand arguments at the most
  for i = 1, #values, 1000 do call(command, key, unpack(values, i, math.min(i + 999, #values))) end
end

for queue, new in pairs(queues) do
  local fine, problem = pcall(in_portions, 'RPUSH', queue, new.ids)
  for _, run in ipairs(fine and {} or new.runs) do
    made = run[3]
    fail(run[1], run[2], problem)
  end
  if fine then call('PUBLISH', WAKE, string.sub(queue, 10)) else queues[queue] = nil end
end
-- Last what other tools list: if that is not what it should be, the scheduler says so, and every run is in its queue.
for queue in pairs(queues) do call('SADD', 'rq:queues', queue) end
in_portions('ZADD', SCHEDULED, moved)
return cjson.encode({now = now, results = results})
