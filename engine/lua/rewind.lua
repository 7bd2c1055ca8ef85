-- Scheduler: Redis's clock was set back, and entries would wait until it is where it was; or the sessions of a
-- market are other ones than when the due times of its entries were found; or Redis came back from an older state.
-- ARGV[1]: JSON list of {id, due, version, to, again (whether due times come twice)}. Returns how many were moved.
room()
local moved = 0
for _, e in ipairs(cjson.decode(ARGV[1])) do
  local key = ENTRY .. e.id
  local f = call('HMGET', key, 'due', 'version')
  if tonumber(f[1] or '') == e.due and tonumber(f[2] or '') == e.version and e.to > math.min(now, e.due) then
    call('HSET', key, 'due', e.to)
    if e.again then call('HSET', key, 'again_until', e.due) end
    call('ZADD', SCHEDULED, e.to / 1000, e.id)
    moved = moved + 1
  end
end
if moved > 0 then call('PUBLISH', 'nightdesk:schedule', '') end
return moved
