-- Of every plugin that the outbox knows: name, how many wait, how many are parked, the oldest that waits.

local found = {}
for place, name in ipairs(plugins()) do
  local from, to = '[' .. name .. '\31', '(' .. name .. '\32'
  local oldest = members(WAITING, name, 1)[1]
  found[place] = {
    name, call('ZLEXCOUNT', WAITING, from, to), call('ZLEXCOUNT', PARKED, from, to),
    oldest and call('HGET', SHARD, 'e:' .. id_of(oldest)) or false,
  }
end
return found
