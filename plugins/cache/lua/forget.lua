-- The position of a plugin that has gone is dropped, parked entries too.

local left = {}
for _, name in ipairs(plugins()) do
  if name ~= PLUGIN then left[#left + 1] = name end
end
for _, key in ipairs({ WAITING, PARKED }) do
  for _, member in ipairs(members(key, PLUGIN)) do
    local name = remove_entry(PLUGIN, id_of(member))
    if name then released(name) end
  end
end
call('HSET', SHARD, 'plugins', pack(left))
return 1
