-- ARGV[3]: the names that listen. A new one starts at the end.

local known = plugins()
local there, grown = {}, false
for _, name in ipairs(known) do there[name] = true end
for _, name in ipairs(open(ARGV[3])) do
  if not there[name] then
    known[#known + 1] = name
    there[name], grown = true, true
  end
end
if grown then call('HSET', SHARD, 'plugins', pack(known)) end
return 1
