-- What is here of these chats: ARGV[4] their ids and whether this is a use. Absent means not here.

local a = open(ARGV[4])
local ids, used = a[1], a[2]
local first = call('HGET', PERSON, 'p')
if not first then return {} end
local P = open(first)
local found, changed = {}, false
for place, chat in ipairs(ids) do
  local fields = call('HMGET', PERSON, 'c:' .. chat, 'x:' .. chat, 'd:' .. chat, 't:' .. chat, 'm:' .. chat)
  if not fields[1] then
    local at = later.tombstone_of(fields[2])
    if at then found[#found + 1] = { place, string.format('%.0f', at) } end
  else
    local C = open(fields[1])
    if not later.over(P, chat, C) then
      local names = {}
      if fields[5] then
        for _, message in ipairs(open(fields[5])) do names[#names + 1] = 'b:' .. chat .. ':' .. message[@m_id] end
      end
      found[#found + 1] = { place, fields[1], fields[3], fields[4], fields[5], #names > 0 and call('HMGET', PERSON, unpack(names)) or {} }
      if used or now - C[@touched] > 1000 then
        C[@touched] = now
        if used then
          P[@p_uses] = P[@p_uses] + 1
          C[@used] = P[@p_uses]
          if C[@evictable] then later.keep_reading('ZADD', LRU, C[@used], chat) end
          changed = true
        end
        later.keep_reading('HSET', PERSON, 'c:' .. chat, pack(C))
      end
    end
  end
end
if changed then
  later.evict(P)
  later.keep_reading('HSET', PERSON, 'p', pack(P))
end
return found
