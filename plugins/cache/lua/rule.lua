-- The rule: what becomes of a change (semantics §1–§5). The twin of `sidecar.decide`, held to it by a differential test.
-- A decision `D` is a table: code, and of an accepted change what it made (`chat`, `items`, `entries`, `remember`, …).
-- `W` is what the change asks, `C` the chat as it is (nil: not here), `A` as it will be. `false` is a value that is none.

local CH -- the change: kind, chat, device, key, operation, digest, at, connection, token; set by the entry script
local W -- what it asks

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

-- drafts and titles ------------------------------------------------------------------------------------------------------

local function its_own(version, op)
  -- Whether what is here is what this very change makes: its outcome was lost, and a device has brought the text back.
  return CH.operation and version == W.base + 1 and op == CH.operation
end

local function put_draft(V)
  local before, B = V.chat, V.chat
  if not before then
    if not W.has_content or W.base > 0 then return conflict('missing') end
    B = new_chat(V.epoch)
  else
    if its_own(B[@version], B[@draft_op]) then return accepted(before, before, { again = true }) end
    if W.base > B[@version] then return conflict('missing', B) end
    if W.base < B[@version] or (W.base_op and W.base_op ~= B[@draft_op]) then return conflict(reason_of(B), B) end
  end
  local A = copy(B)
  A[@draft_length] = W.has_content and #ARGV[5] or -1
  A[@version] = B[@version] + 1
  A[@draft_op] = CH.operation
  A[@draft_state] = W.has_content and 'edited' or 'deleted'
  A[@draft_at], A[@draft_device] = CH.at, CH.device
  A[@updated_at] = math.max(B[@updated_at], CH.at)
  A[@doomed] = not W.has_content and B[@messages_version] == 0 and not W.has_messages
  if W.has_content then
    local D = over_quota(V, before, A)
    if D then return D end
  end
  -- Of a doomed chat the others hear by the tombstone that follows.
  local items = A[@doomed] and {} or { { before and 'draft' or 'added', A[@version], false } }
  local D = accepted(before, A, { items = items, due = not A[@doomed] })
  D.draft = W.has_content and ARGV[5] or false
  return D
end

local function put_title(V)
  local B = V.chat
  if B and its_own(B[@title_version], B[@title_op]) then return accepted(B, B, { again = true }) end
  if not B or W.base > B[@title_version] then return conflict('missing', B) end
  if W.base < B[@title_version] or (W.base_op and W.base_op ~= B[@title_op]) then return conflict('stale', B) end
  local A = copy(B)
  A[@title_length] = W.has_content and #ARGV[5] or -1
  A[@title_version] = B[@title_version] + 1
  A[@title_op] = CH.operation
  A[@title_at], A[@title_device] = CH.at, CH.device
  A[@updated_at] = math.max(B[@updated_at], CH.at)
  if W.has_content then
    local D = over_quota(V, B, A)
    if D then return D end
  end
  local D = accepted(B, A, { items = { { 'title', A[@title_version], false } } })
  D.title = W.has_content and ARGV[5] or false
  return D
end

-- restores ---------------------------------------------------------------------------------------------------------------

local function restore(V)
  local before = V.chat
  local B = before or new_chat(V.epoch)
  local A, lost, draft, title = B, false, nil, nil
  local replaced = { version = 0, op = false, title_version = 0, title_op = false }
  local gave_way = false
  if W.draft then
    if W.draft.version > B[@version] then
      if B[@draft_length] >= 0 then
        replaced.draft, replaced.version, replaced.op, gave_way = true, B[@version], B[@draft_op], true
      end
      A = copy(A)
      draft = W.draft.has_content and ARGV[5] or false
      A[@draft_length] = draft and #draft or -1
      A[@version], A[@draft_op], A[@draft_state] = W.draft.version, W.draft.op, W.draft.state
      A[@draft_at], A[@draft_device] = CH.at, CH.device
    elseif W.draft.version < B[@version] or W.draft.op ~= B[@draft_op] then
      lost = reason_of(B)
    end
  end
  if W.title and W.title.version > B[@title_version] then
    if B[@title_length] >= 0 then
      replaced.title, replaced.title_version, replaced.title_op, gave_way = true, B[@title_version], B[@title_op], true
    end
    A = copy(A)
    title = W.title.has_content and ARGV[6] or false
    A[@title_length] = title and #title or -1
    A[@title_version], A[@title_op] = W.title.version, W.title.op
    A[@title_at], A[@title_device] = CH.at, CH.device
  end
  if W.messages_version > B[@messages_version] then
    A = copy(A)
    A[@messages_version] = W.messages_version
  end
  if A == B then
    if not before then return conflict('missing') end -- the device holds nothing either: no chat to make of that
    if lost then return conflict(lost, B) end
  else
    A[@updated_at] = math.max(B[@updated_at], CH.at)
    local D = over_quota(V, before, A)
    if D then return D end
  end
  local D = accepted(before, A, {
    items = { { 'restored', A[@version], false } }, replaced = gave_way and replaced or nil, draft_lost = lost,
  })
  D.draft, D.title = draft, title
  return D
end

-- messages ---------------------------------------------------------------------------------------------------------------

local function place_of(messages, id)
  for place, message in ipairs(messages) do
    if message[@m_id] == id then return place end
  end
  return nil
end

local function with_messages(A, messages)
  -- These messages in their order, the oldest delivered ones over `kept` left to the store; the bodies to drop.
  table.sort(messages, function(one, other)
    if one[@m_sequence] ~= other[@m_sequence] then return one[@m_sequence] < other[@m_sequence] end
    if one[@m_at] ~= other[@m_at] then return one[@m_at] < other[@m_at] end
    return one[@m_place] < other[@m_place]
  end)
  local gone = {}
  while #messages > SET[@messages_kept] and messages[1][@m_status] == 'delivered' do
    gone[#gone + 1] = table.remove(messages, 1)
    A[@older] = true
  end
  A[@undelivered], A[@message_bytes], A[@message_count] = 0, 0, #messages
  for place, message in ipairs(messages) do
    message[@m_place] = place
    if message[@m_status] == 'sent' or message[@m_status] == 'error' then A[@undelivered] = A[@undelivered] + 1 end
    A[@message_bytes] = A[@message_bytes] + 256 + message[@m_size]
    A[@last_sequence] = math.max(A[@last_sequence], message[@m_sequence])
  end
  return gone
end

local function known_message(V)
  -- This message, if it was accepted before: here, or in the store alone, which keeps more than the newest.
  local messages = V.messages()
  local place = place_of(messages, W.id)
  if place then return messages[place] end
  if W.stored then return { W.id, W.sequence, 'delivered', W.created_at, W.size, 0 } end
  return nil
end

local function consume(B)
  -- Consumes the draft if the message was made from the current revision, or from a higher one than is here (lost).
  local named = W.draft_version
  if not named or named < B[@version] then return B, false, nil end
  if named == B[@version] and (B[@draft_state] ~= 'edited' or (W.draft_op and W.draft_op ~= B[@draft_op])) then
    return B, false, nil
  end
  local replaced
  if named > B[@version] and B[@draft_length] >= 0 then
    replaced = { draft = true, version = B[@version], op = B[@draft_op], title_version = 0, title_op = false }
  end
  local A = copy(B)
  A[@draft_length], A[@version], A[@draft_op], A[@draft_state] = -1, named + 1, CH.operation, 'consumed'
  A[@draft_at], A[@draft_device] = CH.at, CH.device
  A[@updated_at] = math.max(B[@updated_at], CH.at)
  return A, true, replaced
end

local function add_message(V)
  local before = V.chat
  local B = before or new_chat(V.epoch)
  local message = known_message(V)
  if B[@older] and not W.stored and W.seen ~= B[@messages_version] and not message then return { code = 'U' } end
  local A, consumed, replaced = consume(B)
  local own = B[@draft_state] == 'consumed' and B[@version] == (W.draft_version or 0) + 1
  local draft
  if consumed then draft = false end
  local items = consumed and { { 'draft', A[@version], false } } or {}
  if message then
    -- The text was consumed when the message was new, or was lost and restored in between and is consumed now.
    if not before and A == B then A = copy(B) end
    local D = accepted(before, A, { items = items, again = true, consumed = consumed or own, message = message, replaced = replaced })
    D.draft = draft
    return D
  end
  message = { W.id, B[@last_sequence] + 1, 'sent', CH.at, W.size, 0 }
  -- After a loss a device may have brought back the very revision that this message made of the draft.
  consumed = consumed or (own and CH.operation and B[@draft_op] == CH.operation)
  if A == B then A = copy(B) end
  local messages = V.messages()
  message[@m_place] = #messages + 1
  messages[#messages + 1] = message
  local gone = with_messages(A, messages)
  A[@messages_version] = B[@messages_version] + 1
  A[@last_message_timestamp] = CH.at
  A[@updated_at] = math.max(B[@updated_at], CH.at)
  local D = over_quota(V, before, A)
  if D then return D end
  items[#items + 1] = { 'message', A[@messages_version], message[@m_id] }
  -- The chat begins with its message: the others are told of the chat as it is now, and then of the message.
  if not before then items = { { 'added', A[@version], false }, items[#items] } end
  D = accepted(before, A, {
    items = items, entries = { { B[@messages_version] == 0 and 'first_message' or 'message', message[@m_id] } },
    due = false, consumed = consumed, message = message, replaced = replaced,
  })
  D.draft, D.messages, D.gone, D.body = draft, messages, gone, ARGV[5]
  return D
end

-- the end of a chat, and the sidecar's own changes -----------------------------------------------------------------------

local function doom_chat(V)
  if V.tombstone then return { code = 'A', deleted = V.tombstone, again = true } end
  local D = { code = 'A', at = CH.at, doomed = true, record = V.chat }
  if V.chat and not V.chat[@doomed] then
    D.put = copy(V.chat)
    D.put[@doomed] = true
  end
  if CH.operation then
    D.remember = { CH.digest, CH.at, true, false, 'delete', 0, false, 0, false, 0, false, false, false, false, false, now }
  end
  return D
end

local function delete_chat(V)
  if V.tombstone then return { code = 'A', deleted = V.tombstone, again = true } end
  return { code = 'A', at = CH.at, deleted = CH.at, bury = true, items = { { 'deleted', 0, false } }, entries = { { 'deleted', false } } }
end

local function with_status(C, messages, id, status)
  -- The chat with that message's status changed, or nil if there is nothing to change.
  local place = place_of(messages, id)
  if not place or messages[place][@m_status] == status then return nil end
  local function lacks(each) return (each == 'sent' or each == 'error') and 1 or 0 end
  local A = copy(C)
  A[@undelivered] = A[@undelivered] + lacks(status) - lacks(messages[place][@m_status])
  A[@messages_version] = A[@messages_version] + 1
  messages[place][@m_status] = status
  return A, messages[place]
end

local function set_status(V)
  local C = V.chat
  if not C then return { code = 'C', reason = 'missing' } end
  local messages = V.messages()
  local A, message = with_status(C, messages, W.id, W.status)
  if not A then return { code = 'A', messages_version = C[@messages_version], again = true, record = C } end
  return {
    code = 'A', messages_version = A[@messages_version], record = A, put = A, messages = messages, touched = message,
    items = { { 'message_update', A[@messages_version], W.id } },
  }
end

local function mark_stored(V)
  local C = V.chat
  if not C then return { code = 'C', reason = 'missing' } end
  local A, items, messages, gone, message = C, {}, nil, nil, nil
  if W.id then
    local kept = V.messages()
    local changed, touched = with_status(C, kept, W.id, 'delivered')
    if changed then
      A, messages, message = changed, kept, touched
      if #messages > SET[@messages_kept] then gone = with_messages(A, messages) end
      items[1] = { 'message_update', A[@messages_version], W.id }
    end
  end
  local version = math.max(C[@stored_version], math.min(W.version, C[@version]))
  local title_version = math.max(C[@stored_title_version], math.min(W.title_version, C[@title_version]))
  if version > C[@stored_version] or title_version > C[@stored_title_version] then
    items[#items + 1] = { 'stored', version, false }
  end
  if #items > 0 or not C[@in_store] then
    if A == C then A = copy(C) end
    A[@stored_version], A[@stored_title_version], A[@in_store] = version, title_version, true
  end
  return {
    code = 'A', messages_version = A[@messages_version], record = A, put = A ~= C and A or nil, items = items,
    messages = messages, gone = gone, touched = message,
  }
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
    return { code = 'C', reason = kind == 'draft' and reason_of(C) or 'stale', winner = C, again = true }
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
    consumed = R[@r_consumed], message = message, doomed = C[@doomed], record = C, draft_lost = R[@r_draft_lost],
  }
  if kept then
    D.replaced = { version = kept[1], op = kept[2], title_version = kept[3], title_op = kept[4] }
    local texts = call('HMGET', PERSON, 'rd:' .. CH.operation, 'rt:' .. CH.operation)
    D.replaced.draft, D.replaced.title = texts[1], texts[2]
  end
  return D
end

local function first_time(V)
  local kind = CH.kind
  if kind == 'epoch' then return { code = 'A', new_epoch = W.seen == V.epoch } end
  if kind == 'notify' then
    return {
      code = 'A', items = { { 'notice', 0, W.name } }, entries = W.name == 'erased' and { { 'erased', false } } or {},
    }
  end
  if kind == 'doom' then return doom_chat(V) end
  if kind == 'delete' then return delete_chat(V) end
  if kind == 'stored' then return mark_stored(V) end
  if kind == 'status' then return set_status(V) end
  if V.tombstone then return conflict('chat_deleted', nil, V.tombstone) end
  if not usable(V) then return { code = 'U' } end
  if V.chat and V.chat[@doomed] then return conflict('chat_deleted', nil, V.chat[@updated_at]) end
  if kind == 'draft' then return put_draft(V) end
  if kind == 'title' then return put_title(V) end
  if kind == 'restore' then return restore(V) end
  return add_message(V)
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
