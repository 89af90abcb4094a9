-- Drafts and titles of these chats whose time has come get their entries (ARGV[4]: due ones, then chats that entries let go of).

local a = open(ARGV[4])
for _, chat in ipairs(a[1]) do call('ZREM', DUE, due_member(chat)) end
for _, chat in ipairs(a[2]) do call('SREM', RELEASED, due_member(chat)) end
local raw = call('HGET', PERSON, 'p')
if not raw then return 0 end
local P = open(raw)
for _, chat in ipairs(a[1]) do
  local C = read_chat(chat)
  if C and not C[@doomed] then
    C[@due_first] = 0
    if C[@version] > math.max(C[@draft_enqueued], C[@stored_version]) then
      append_entry(USER, chat, 'draft', nil, now * 1000)
      C[@draft_enqueued] = C[@version]
    end
    if C[@title_version] > math.max(C[@title_enqueued], C[@stored_title_version]) then
      append_entry(USER, chat, 'title', nil, now * 1000)
      C[@title_enqueued] = C[@title_version]
    end
    settle_place(chat, C)
    write_chat(chat, C)
  end
end
for _, chat in ipairs(a[2]) do
  local C = read_chat(chat)
  if C then
    settle_place(chat, C)
    write_chat(chat, C)
    local ends = ends_at(P, chat, C)
    if ends then look_at(P, chat, ends) end -- the entry kept it alive, which may be what it lived by
  end
end
if crowded then evict(P) end
write_person(P)
return 1
