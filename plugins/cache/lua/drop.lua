-- ARGV[4] 'clean': clean chats go; of the others the messages that the store has (ARGV[5]: the ids).
-- ARGV[4] 'person': all of it, but the entries that tell the plugins of the end of the person and of chats.

if ARGV[4] == 'person' then
  drop_entries(USER .. ':', USER .. ';', { deleted = true, erased = true })
  for _, chat in ipairs(call('ZRANGE', ENDS, 0, -1)) do call('ZREM', DUE, USER .. ':' .. chat) end
  call('ZREM', VISITS, USER)
  call('UNLINK', PERSON, LOG, OUTCOMES, TOKENS, LRU, ENDS)
  return 1
end
local raw = call('HGET', PERSON, 'p')
if not raw then return 0 end
local P = open(raw)
for _, chat in ipairs(open(ARGV[5])) do
  local C = later.read_chat(chat)
  later.spoil(P, chat)
  if C and not pinned(C) then
    later.remove_chat(P, chat, C)
  elseif C and C[@message_count] > 0 then
    local rest, gone = {}, {}
    for _, message in ipairs(later.read_messages(chat)) do
      local list = message[@m_status] == 'delivered' and gone or rest
      list[#list + 1] = message
    end
    if #gone > 0 then
      local A = { unpack(C) }
      later.drop_bodies(chat, gone)
      later.write_messages(chat, rest)
      A[@older], A[@undelivered], A[@message_bytes], A[@message_count] = true, 0, 0, #rest
      for _, message in ipairs(rest) do
        if message[@m_status] == 'sent' or message[@m_status] == 'error' then A[@undelivered] = A[@undelivered] + 1 end
        A[@message_bytes] = A[@message_bytes] + 256 + message[@m_size]
      end
      put_chat(P, chat, A, C)
      later.write_chat(chat, A)
    end
  end
end
write_person(P)
return 1
