-- Schedulers add what is missing; only the release step changes or removes (ARGV[2] = 'reconcile').
-- ARGV[1]: JSON list of {id, due, fresh, version, fields, meta}; of {id} where the entry is to stay as it is. One that
-- exists keeps its due time; if its cadence changed it is due at `fresh`, the first due time from now on. What a release
-- removed, schedulers of an older version, which still know it, do not add again.
-- Returns JSON list of the ids that were added, changed or removed, and of {id, problem} of those that cannot be.
room()
local REMOVED = 'nightdesk:removed'
local reconcile, touched, problems, wanted = ARGV[2] == 'reconcile', {}, {}, {}

local function declare(e)
  local key, job = ENTRY .. e.id, 'rq:job:' .. e.id
  local f = call('HMGET', key, 'due', 'version', 'cadence')
  local due, version = tonumber(f[1] or ''), tonumber(f[2] or '')
  local missing = not due
  if reconcile then
    call('SREM', REMOVED, e.id)
  elseif missing and call('SISMEMBER', REMOVED, e.id) == 1 then
    return
  end
  local changed = missing
  for field, value in pairs(e.fields) do
    if call('HGET', key, field) ~= tostring(value) then changed = true end
  end
  if missing or ((reconcile or e.version > (version or 0)) and changed) then
    if missing then due = e.due elseif f[3] ~= e.fields.cadence then due = e.fresh end
    for field, value in pairs(e.fields) do call('HSET', key, field, tostring(value)) end
    call('HSET', key, 'due', due, 'version', math.max(e.version, (version or 0) + (missing and 0 or 1)))
    call('DEL', key .. ':run')
    call('SADD', ENTRIES, e.id)
    touched[#touched + 1] = e.id
  else
    changed = false
  end
  -- rq-scheduler's own listing: a job hash without TTL and a score in seconds
  call('ZADD', SCHEDULED, due / 1000, e.id)
  if changed or call('EXISTS', job) == 0 then
    call('HSET', job, 'created_at', iso(now), 'data', e.fields.data, 'origin', e.fields.queue, 'timeout', e.fields.timeout,
      'description', e.fields.description, 'status', 'scheduled', 'meta', e.meta)
    call('PERSIST', job)
  end
end

for _, e in ipairs(cjson.decode(ARGV[1])) do
  wanted[e.id] = true
  local fine, problem = true, nil
  if e.fields then fine, problem = pcall(declare, e) end
  if not fine then problems[#problems + 1] = {e.id, reason_of(problem)} end
end
if reconcile then
  for _, id in ipairs(call('SMEMBERS', ENTRIES)) do
    if not wanted[id] then
      call('DEL', ENTRY .. id, ENTRY .. id .. ':run', 'rq:job:' .. id)
      call('SREM', ENTRIES, id)
      call('ZREM', SCHEDULED, id)
      call('SADD', REMOVED, id)
      touched[#touched + 1] = id
    end
  end
end
if #touched > 0 then call('PUBLISH', 'nightdesk:schedule', '') end
return cjson.encode({touched = touched, problems = problems})
