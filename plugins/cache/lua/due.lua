-- Drafts and titles of these chats whose time has come get their entries (ARGV[4]: due ones, then chats that entries let go of).

local a = open(ARGV[4])
local marks = {}
for _, chat in ipairs(a[1]) do
  marks[chat] = call('ZSCORE', DUE, USER .. ':' .. chat)
  call('ZREM', DUE, USER .. ':' .. chat)
end
for _, chat in ipairs(a[2]) do call('SREM', RELEASED, USER .. ':' .. chat) end
local raw = call('HGET', PERSON, 'p')
if not raw then return 0 end
local P = open(raw)
for _, chat in ipairs(a[1]) do
  local C = later.read_chat(chat)
  -- Later than anything can be put off is what was put down before the clock went back; it is due.
  if C and not C[@doomed] and C[@due_at] > now and C[@due_at] <= now + SET[@max_debounce] and marks[chat] ~= '0' then
    call('ZADD', DUE, C[@due_at], USER .. ':' .. chat) -- edited again since the mark was made, which nobody hurries (0)
  elseif C and not C[@doomed] then
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
    later.write_chat(chat, C)
  end
end
for _, chat in ipairs(a[2]) do
  local C = later.read_chat(chat)
  if C then
    settle_place(chat, C)
    later.write_chat(chat, C)
    local ends = later.ends_at(P, chat, C)
    if ends then later.look_at(P, chat, ends) end -- the entry kept it alive, which may be what it lived by
  end
end
if crowded then later.evict(P) end
write_person(P)
return 1
