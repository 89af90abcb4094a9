-- ARGV[5] how many. Answers: whether the lease is lost, what is due, what was released, the oldest entries that wait.

if lease_lost() then return { 1 } end
local due = call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, 1000)
-- Due later than anything can be is what was put down before the clock went back.
if #due == 0 then due = call('ZRANGEBYSCORE', DUE, '(' .. now + SET[@max_debounce], '+inf', 'LIMIT', 0, 1000) end
local free = call('SRANDMEMBER', RELEASED, 1000)
if #due > 0 or #free > 0 then return { 0, due, free, {} } end
local entries = {}
for _, member in ipairs(members(WAITING, PLUGIN, tonumber(ARGV[5]))) do
  local entry = entry_of(member)
  if entry[2] then
    entries[#entries + 1] = entry
    local E = open(entry[2])
    if is_text(E[@e_kind]) then
      -- It may be on its way with an older state from now on: a later edit gets an entry of its own.
      local open_at = open_field(PLUGIN, E[@e_user] .. ':' .. (E[@e_chat] or ''), E[@e_kind])
      if call('HGET', SHARD, open_at) == entry[1] then call('HDEL', SHARD, open_at) end
    end
  else
    call('ZREM', WAITING, member) -- a part of the shard was lost, and this entry with it
  end
end
return { 0, {}, {}, entries }
