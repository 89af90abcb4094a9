-- The end of a chat, for scripts of a person.

local function bury(P, chat, at)
  -- The tombstone in the chat's place; its entries go, but for those that tell of the deletion.
  local name = USER .. ':' .. chat
  drop_entries(name .. '\31', name .. '\32', { deleted = true })
  later.spoil(P, chat)
  local C = later.read_chat(chat)
  if C then later.remove_chat(P, chat, C) end
  set('x:' .. chat, pack({ at, now }))
  later.look_at(P, 'x:' .. chat, now + SET[@tombstones_ttl])
end
