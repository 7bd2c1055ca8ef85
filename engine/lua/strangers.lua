-- Scan: runs of the schedule that a worker of rq's own class took and failed are in no history: tell it. ARGV: ids of
-- failed jobs. Returns those that were told.
local WHY = "failed by a worker of rq's own class: start it as `rq worker -w queues.Worker`"
room()
local told = {}
for _, id in ipairs(ARGV) do
  local key = 'rq:job:' .. id
  local found, f = pcall(call, 'HMGET', key, 'status', 'nd_entry', 'nd_told', 'worker_name')
  if found and f[1] == 'failed' and f[2] and f[2] ~= '' and not f[3] then
    local was = fields_of(id)
    was[6] = (tonumber(was[6] or '') or 0) + 1 -- theirs was one more
    tell_end(id, was, 'failed', true, WHY, f[4] or 'unknown')
    tally_failed(f[2])
    call('HSET', key, 'nd_attempt', was[6], 'nd_told', 1)
    told[#told + 1] = id
  end
end
return told
