-- A chat that was read from the store comes into the cache, never over something newer. The twin of memory_fill.py.
-- ARGV[4]: token, chat, deleted at (or nil), record, message index; ARGV[5], ARGV[6] draft and title; then the bodies.

local a = open(ARGV[4])
local token, chat, deleted, N, messages = a[1], a[2], a[3], a[4], a[5]

local function loses(P, here, other)
  if other[@version] < here[@version] or other[@title_version] < here[@title_version]
    or other[@messages_version] < here[@messages_version] or (here[@doomed] and not other[@doomed]) then
    return true
  end
  if here[@epoch] == P[@p_epoch] and (
    (here[@version] > here[@stored_version] and other[@version] == here[@version] and other[@draft_op] ~= here[@draft_op])
    or (here[@title_version] > here[@stored_title_version] and other[@title_version] == here[@title_version]
      and other[@title_op] ~= here[@title_op])) then
    return true
  end
  if here[@undelivered] > 0 then
    local there = {}
    for _, message in ipairs(messages) do there[message[@m_id]] = true end
    for _, message in ipairs(later.read_messages(chat)) do
      if message[@m_status] ~= 'delivered' and not there[message[@m_id]] then return true end
    end
  end
  return false
end

local fields = call('HMGET', PERSON, 'p', 'c:' .. chat, 'x:' .. chat)
if not fields[1] or not later.holds_token(token, chat) or later.tombstone_of(fields[3]) then return 0 end
local P = open(fields[1])
if deleted then
  bury(P, chat, deleted)
  write_person(P)
  return 1
end
local C = fields[2] and open(fields[2]) or nil
if N[@epoch] ~= P[@p_epoch] or (C and loses(P, C, N)) then return 0 end

if C then
  if C[@message_count] > 0 then later.drop_bodies(chat, later.read_messages(chat)) end
  N[@used], N[@draft_enqueued], N[@title_enqueued] = C[@used], C[@draft_enqueued], C[@title_enqueued]
  N[@due_first], N[@due_at], N[@evictable] = C[@due_first], C[@due_at], C[@evictable]
  for place = @FIELDS + 1, #C do N[place] = C[place] end -- what a newer sidecar keeps of the chat
end
if N[@draft_length] >= 0 then set('d:' .. chat, ARGV[5]) else call('HDEL', PERSON, 'd:' .. chat) end
if N[@title_length] >= 0 then set('t:' .. chat, ARGV[6]) else call('HDEL', PERSON, 't:' .. chat) end
for place, message in ipairs(messages) do
  set('b:' .. chat .. ':' .. message[@m_id], ARGV[6 + place])
end
later.write_messages(chat, messages)
if not N[@doomed] and (N[@version] > math.max(N[@draft_enqueued], N[@stored_version])
  or N[@title_version] > math.max(N[@title_enqueued], N[@stored_title_version])) then
  mark_due(chat, N)
end
put_chat(P, chat, N, C)
later.write_chat(chat, N)
write_person(P)
return 1
