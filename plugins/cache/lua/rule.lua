-- The rule: what becomes of a change (semantics §1–§5). The twin of `sidecar.decide`, held to it by a differential test.
-- It is `again(V)` where the operation is remembered, and `first_time(V)` elsewhere.
-- A decision `D` is a table: code, and of an accepted change what it made (`chat`, `items`, `entries`, `remember`, …).
-- `W` is what the change asks, `C` the chat as it is (nil: not here), `A` as it will be. `false` is a value that is none.

local CH, W -- the change, and what it asks
local FIRST, SECOND -- its sealed texts
local known_message -- a message that was accepted before; there where the script is about one
local changes = {} -- what becomes of each kind of change that a client asks for
local own = {} -- and of the sidecar's own

local function new_chat(epoch)
  return {
    epoch, CH[@ch_key], CH[@ch_at], CH[@ch_at], 0, false, false, false, 0, false, 'none', false, false, 0, 0, false, 0, 0,
    false, false, false, 0, 0, -1, -1, 0, now, 0, 0, 0, 0, 0, false,
  }
end

local function reason_of(C)
  if C[@draft_state] == 'consumed' then return 'consumed' end
  if C[@draft_state] == 'deleted' then return 'deleted' end
  return 'stale'
end

local function conflict(reason, C, tombstone)
  local D = { code = 'C', reason = reason, winner = C, tombstone = tombstone }
  if CH[@ch_operation] and reason ~= 'missing' then
    D.remember = { CH[@ch_digest], CH[@ch_at], false, reason, CH[@ch_kind], 0, false, 0, false, 0, false, false, false, false, false, now }
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

local function accepted(before, A, D)
  -- The change takes place: `A` is put unless it is `before` itself. `D` has what is to be said beside; the versions are those of `A`.
  D.code, D.at, D.created, D.doomed, D.record = 'A', CH[@ch_at], not before, A[@doomed], A
  if A ~= before then
    D.put, D.due = A, D.due ~= false
  else
    D.items, D.due = nil, false
  end
  if CH[@ch_operation] then
    local message, replaced = D.message, D.replaced
    D.remember = {
      CH[@ch_digest], CH[@ch_at], true, false, CH[@ch_kind], A[@version], A[@draft_op], A[@title_version], A[@title_op],
      A[@messages_version], message and message[@m_id] or false, not before, D.consumed or false, D.draft_lost or false,
      replaced and { replaced.version, replaced.op, replaced.title_version, replaced.title_op } or false, now,
    }
  end
  return D
end

-- the order of the questions ---------------------------------------------------------------------------------------------

local function usable(V)
  if V.chat then return V.chat[@epoch] == V.epoch end
  return CH[@ch_token] and later.holds_token(CH[@ch_token], CH[@ch_chat])
end

local function first_time(V)
  local decided_by = own[CH[@ch_kind]]
  if decided_by then return decided_by(V) end
  if V.tombstone then return conflict('chat_deleted', nil, V.tombstone) end
  if not usable(V) then return { code = 'U' } end
  if V.chat and V.chat[@doomed] then return conflict('chat_deleted', nil, V.chat[@updated_at]) end
  return changes[CH[@ch_kind]](V)
end

local function again(V)
  -- The same operation again: the first outcome, and nothing changes. The twin of rule/again.py.
  local function holds(version, op, first_version, first_op)
    return version > first_version or (version == first_version and op == first_op)
  end

  local function repeated(V)
    -- The first outcome, or nil where it no longer holds and the change is to be carried out anew.
    local R, C = V.remembered, V.chat
    local kind = R[@r_kind]
    if R[@r_digest] ~= CH[@ch_digest] then return { code = 'R' } end
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
      message = CH[@ch_kind] == 'message' and known_message(V) or nil
      held = message ~= nil
    else
      held = holds(C[@version], C[@draft_op], R[@r_version], R[@r_op])
        and holds(C[@title_version], C[@title_op], R[@r_title_version], R[@r_title_op])
        and C[@messages_version] >= R[@r_messages_version]
    end
    if not held then return nil end
    local kept = R[@r_replaced]
    local D = {
      code = 'A', at = R[@r_at], created = R[@r_created], again = true,
      versions = { R[@r_version], R[@r_op], R[@r_title_version], R[@r_title_op], R[@r_messages_version] },
      consumed = R[@r_consumed], message = message, doomed = C[@doomed], record = C, draft_lost = R[@r_draft_lost] and reason_of(C),
    }
    if kept then
      D.replaced = { version = kept[1], op = kept[2], title_version = kept[3], title_op = kept[4] }
      local texts = call('HMGET', PERSON, 'rd:' .. CH[@ch_operation], 'rt:' .. CH[@ch_operation])
      D.replaced.draft, D.replaced.title = texts[1], texts[2]
    end
    return D
  end

  local function still_replaced(R, D)
    -- What gave way the first time is nowhere else, and is given back by the answer to the second.
    local before = R[@r_replaced]
    if not before or D.code ~= 'A' then return D end
    local texts = call('HMGET', PERSON, 'rd:' .. CH[@ch_operation], 'rt:' .. CH[@ch_operation])
    local after = D.replaced or { version = 0, op = false, title_version = 0, title_op = false }
    if not after.draft then after.draft, after.version, after.op = texts[1], before[1], before[2] end
    if not after.title then after.title, after.title_version, after.title_op = texts[2], before[3], before[4] end
    D.replaced = after
    D.remember[@r_replaced] = { after.version, after.op, after.title_version, after.title_op }
    return D
  end

  local D = repeated(V)
  if D then return D end
  D = first_time(V)
  if not D.remember then
    D.forget = true
    return D
  end
  return still_replaced(V.remembered, D)
end
