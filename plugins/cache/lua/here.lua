-- The chats that are here and whose deletion was not begun, newest first by change and id, before ARGV[4] (at, id) if it is
-- given, at most ARGV[5]. Answers: how many only the cache knows, whether there are more, and the chats.

local before, most = open(ARGV[4]), tonumber(ARGV[5])
local raw = call('HGET', PERSON, 'p')
if not raw then return { 0, 0, {} } end
local P = open(raw)
local drafts, found = 0, {}
for _, chat in ipairs(call('ZRANGE', ENDS, 0, -1)) do
  local packed = string.sub(chat, 1, 2) ~= 'x:' and call('HGET', PERSON, 'c:' .. chat)
  local C = packed and open(packed)
  if C and not C[@doomed] and not later.over(P, chat, C) then
    if C[@messages_version] == 0 then drafts = drafts + 1 end
    if not before[1] or C[@updated_at] < before[1] or (C[@updated_at] == before[1] and chat < before[2]) then
      found[#found + 1] = { C[@updated_at], chat, packed }
    end
  end
end
table.sort(found, function(one, other)
  if one[1] ~= other[1] then return one[1] > other[1] end
  return one[2] > other[2]
end)
local chats = {}
for place = 1, math.min(most, #found) do
  local chat, packed = found[place][2], found[place][3]
  local texts = call('HMGET', PERSON, 'd:' .. chat, 't:' .. chat)
  chats[place] = { chat, packed, texts[1], texts[2] }
end
if now - P[@p_polled] > math.min(SET[@draft_ttl] / 8, 30000) then
  P[@p_polled] = now
  later.keep_reading('HSET', PERSON, 'p', pack(P))
end
return { drafts, #found > most and 1 or 0, chats }
