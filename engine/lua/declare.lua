-- Schedulers add what is missing; only the release step changes or removes (ARGV[2] = 'reconcile').
-- ARGV[1]: JSON list of {id, due, version, fields}; an entry that exists keeps its due time unless its cadence changed.
-- Returns JSON list of the ids that were added, changed or removed.
local reconcile, touched, wanted = ARGV[2] == 'reconcile', {}, {}
for _, e in ipairs(cjson.decode(ARGV[1])) do
  wanted[e.id] = true
  local key = ENTRY .. e.id
  local f = call('HMGET', key, 'due', 'version', 'cadence')
  local due, version = tonumber(f[1]), tonumber(f[2])
  local missing = not due
  local moved = missing or f[3] ~= e.fields.cadence
  local changed = missing
  if not missing then
    for field, value in pairs(e.fields) do
      if call('HGET', key, field) ~= tostring(value) then changed = true end
    end
  end
  if missing or ((reconcile or e.version > version) and changed) then
    for field, value in pairs(e.fields) do call('HSET', key, field, tostring(value)) end
    if moved then due = e.due end
    call('HSET', key, 'due', due, 'version', math.max(e.version, (version or 0) + (missing and 0 or 1)))
    call('DEL', key .. ':run')
    call('SADD', ENTRIES, e.id)
    touched[#touched + 1] = e.id
  end
  -- rq-scheduler's own listing: a job hash without TTL and a score in seconds
  local job = 'rq:job:' .. e.id
  call('ZADD', SCHEDULED, due / 1000, e.id)
  if missing or changed or call('EXISTS', job) == 0 then
    call('HSET', job, 'created_at', iso(now), 'data', e.fields.data, 'origin', e.fields.queue, 'timeout', e.fields.timeout,
      'description', e.fields.description, 'status', 'scheduled', 'meta', e.meta)
    call('PERSIST', job)
  end
end
if reconcile then
  for _, id in ipairs(call('SMEMBERS', ENTRIES)) do
    if not wanted[id] then
      call('DEL', ENTRY .. id, ENTRY .. id .. ':run', 'rq:job:' .. id)
      call('SREM', ENTRIES, id)
      call('ZREM', SCHEDULED, id)
      touched[#touched + 1] = id
    end
  end
end
if #touched > 0 then call('PUBLISH', 'nightdesk:schedule', '') end
return cjson.encode(touched)
