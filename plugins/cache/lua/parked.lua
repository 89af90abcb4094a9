-- ARGV[3]: ids to replay, ids to drop. An entry goes back only with or after the earlier ones of its chat; what is dropped is
-- out of their way. Answers the parked entries, oldest first, and the chats that nothing holds
-- any more.

local a, free = open(ARGV[3]), {}
for _, id in ipairs(a[2]) do
  if call('ZSCORE', PARKED, PLUGIN .. '\31' .. id) then
    local name = remove_entry(PLUGIN, id)
    if name and released(name) then free[#free + 1] = name end
  end
end
local wanted, blocked = {}, {}
for _, id in ipairs(a[1]) do wanted[id] = true end
for _, member in ipairs(members(PARKED, PLUGIN)) do
  local id = id_of(member)
  local E = open(call('HGET', SHARD, 'e:' .. id))
  local name = E[@e_user] .. ':' .. (E[@e_chat] or '')
  if wanted[id] and not blocked[name] then
    call('ZREM', PARKED, member)
    call('ZADD', WAITING, 0, member)
    call('HDEL', SHARD, 'y:' .. member)
    unpark(PLUGIN, name)
  else
    blocked[name] = true
  end
end
local entries = {}
for place, member in ipairs(members(PARKED, PLUGIN)) do entries[place] = entry_of(member) end
return { entries, free }
