-- Scan: free the slots of a limit that are held by runs which nobody has in hand. ARGV: the limit's key.
-- Returns how many.
room()
local freed = 0
for _, id in ipairs(call('ZRANGE', ARGV[1], 0, -1)) do
  if call('EXISTS', 'rq:executions:' .. id) == 0 then freed = freed + call('ZREM', ARGV[1], id) end
end
return freed
