-- The rule: what becomes of a change (semantics §1–§5). The twin of `sidecar.decide`, held to it by a differential test.
-- A decision `D` is a table: code, and of an accepted change what it made (`chat`, `items`, `entries`, `remember`, …).
-- `W` is what the change asks, `C` the chat as it is (nil: not here), `A` as it will be. `false` is a value that is none.

local CH -- the change: kind, chat, device, key, operation, digest, at, connection, token; set by the entry script
local W -- what it asks
local known_message -- a message that was accepted before; there where the script is about one
local changes = {} -- what becomes of each kind of change that a client asks for
local own = {} -- and of the sidecar's own

local function copy(C)
  local A = {}
  for place = 1, @FIELDS do A[place] = C[place] end
  return A
end

local function new_chat(epoch)
  return {
    epoch, CH.key, CH.at, CH.at, 0, false, false, false, 0, false, 'none', false, false, 0, 0, false, 0, 0,
    false, false, false, 0, 0, -1, -1, 0, now, 0, 0, 0, 0, false,
  }
end

local function operation_kind()
  local kind = CH.kind
  if kind == 'title' or kind == 'message' or kind == 'restore' then return kind end
  if kind == 'doom' then return 'delete' end
  return 'draft'
end

local function reason_of(C)
  if C[@draft_state] == 'consumed' then return 'consumed' end
  if C[@draft_state] == 'deleted' then return 'deleted' end
  return 'stale'
end

local function conflict(reason, C, tombstone)
  local D = { code = 'C', reason = reason, winner = C, tombstone = tombstone }
  if CH.operation and reason ~= 'missing' then
    D.remember = { CH.digest, CH.at, false, reason, operation_kind(), 0, false, 0, false, 0, false, false, false, false, false, now }
  end
  return D
end

local function over_quota(V, before, A)
  if not before and A[@messages_version] == 0 and V.drafts >= SET[@draft_chats] then
    return { code = 'Q', what = 'draft_chats', limit = SET[@draft_chats] }
  end
  local growth = weight(A) - ((before and pinned(before)) and weight(before) or 0)
  if growth > 0 and V.bytes + growth > SET[@bytes] then return { code = 'Q', what = 'bytes', limit = SET[@bytes] } end
  return nil
end

local function accepted(before, A, more)
  local changed = A ~= before
  local created = not before
  local D = {
    code = 'A', version = A[@version], op = A[@draft_op], title_version = A[@title_version], title_op = A[@title_op],
    messages_version = A[@messages_version], at = CH.at, created = created, again = more.again or false,
    consumed = more.consumed or false, message = more.message, replaced = more.replaced, doomed = A[@doomed],
    draft_lost = more.draft_lost or false, record = A, put = changed and A or nil, items = changed and more.items or {},
    entries = more.entries or {}, due = changed and more.due ~= false,
  }
  if CH.operation then
    D.remember = {
      CH.digest, CH.at, true, false, operation_kind(), D.version, D.op, D.title_version, D.title_op,
      D.messages_version, more.message and more.message[@m_id] or false, created, D.consumed, D.draft_lost,
      more.replaced and { more.replaced.version, more.replaced.op, more.replaced.title_version, more.replaced.title_op } or false, now,
    }
  end
  return D
end

-- the order of the questions ---------------------------------------------------------------------------------------------

local function usable(V)
  if V.chat then return V.chat[@epoch] == V.epoch end
  return CH.token and holds_token(CH.token, CH.chat)
end

local function holds(version, op, first_version, first_op)
  return version > first_version or (version == first_version and op == first_op)
end

local function repeated(V)
  -- The first outcome, or nil where it no longer holds and the change is to be carried out anew.
  local R, C = V.remembered, V.chat
  local kind = R[@r_kind]
  if R[@r_digest] ~= CH.digest then return { code = 'R' } end
  if V.tombstone then
    if kind == 'delete' then return { code = 'A', deleted = V.tombstone, again = true } end
    return { code = 'C', reason = 'chat_deleted', tombstone = V.tombstone, again = true }
  end
  if kind == 'delete' then return nil end -- its tombstone was lost, or is not written yet
  if not usable(V) then return { code = 'U' } end
  if not C then return nil end
  if not R[@r_accepted] then
    if R[@r_reason] == 'chat_deleted' then return nil end -- its tombstone was lost, or its deletion is not done yet
    return { code = 'C', reason = kind == 'title' and 'stale' or reason_of(C), winner = C, again = true }
  end
  local message, held
  if kind == 'draft' then
    held = holds(C[@version], C[@draft_op], R[@r_version], R[@r_op])
  elseif kind == 'title' then
    held = holds(C[@title_version], C[@title_op], R[@r_title_version], R[@r_title_op])
  elseif kind == 'message' then
    message = CH.kind == 'message' and known_message(V) or nil
    held = message ~= nil
  else
    held = holds(C[@version], C[@draft_op], R[@r_version], R[@r_op])
      and holds(C[@title_version], C[@title_op], R[@r_title_version], R[@r_title_op])
      and C[@messages_version] >= R[@r_messages_version]
  end
  if not held then return nil end
  local kept = R[@r_replaced]
  local D = {
    code = 'A', version = R[@r_version], op = R[@r_op], title_version = R[@r_title_version], title_op = R[@r_title_op],
    messages_version = R[@r_messages_version], at = R[@r_at], created = R[@r_created], again = true,
    consumed = R[@r_consumed], message = message, doomed = C[@doomed], record = C, draft_lost = R[@r_draft_lost] and reason_of(C),
  }
  if kept then
    D.replaced = { version = kept[1], op = kept[2], title_version = kept[3], title_op = kept[4] }
    local texts = call('HMGET', PERSON, 'rd:' .. CH.operation, 'rt:' .. CH.operation)
    D.replaced.draft, D.replaced.title = texts[1], texts[2]
  end
  return D
end

local function first_time(V)
  local decided_by = own[CH.kind]
  if decided_by then return decided_by(V) end
  if V.tombstone then return conflict('chat_deleted', nil, V.tombstone) end
  if not usable(V) then return { code = 'U' } end
  if V.chat and V.chat[@doomed] then return conflict('chat_deleted', nil, V.chat[@updated_at]) end
  return changes[CH.kind](V)
end

local function still_replaced(R, D)
  -- What gave way the first time is nowhere else, and is given back by the answer to the second.
  local before = R[@r_replaced]
  if not before or D.code ~= 'A' then return D end
  local texts = call('HMGET', PERSON, 'rd:' .. CH.operation, 'rt:' .. CH.operation)
  local after = D.replaced or { version = 0, op = false, title_version = 0, title_op = false }
  if not after.draft then after.draft, after.version, after.op = texts[1], before[1], before[2] end
  if not after.title then after.title, after.title_version, after.title_op = texts[2], before[3], before[4] end
  D.replaced = after
  D.remember[@r_replaced] = { after.version, after.op, after.title_version, after.title_op }
  return D
end

local function decide(V)
  if not V.remembered then return first_time(V) end
  local D = repeated(V)
  if D then return D end
  D = first_time(V)
  if not D.remember then
    D.forget = true
    return D
  end
  return still_replaced(V.remembered, D)
end
