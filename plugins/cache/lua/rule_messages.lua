-- Messages. The twin of rule/messages.py.

function known_message(V)
  -- This message, if it was accepted before: here, or in the store alone, which keeps more than the newest.
  local messages = messages_of(V)
  local place = place_of(messages, W[@w_id])
  if place then return messages[place] end
  if W[@w_stored] then return { W[@w_id], W[@w_sequence], 'delivered', W[@w_created_at], W[@w_size], 0 } end
  return nil
end

local function consume(B)
  -- Consumes the draft if the message was made from the current revision, or from a higher one than is here (lost).
  local named = W[@w_draft_version]
  if not named or named < B[@version] then return B, false, nil end
  if named == B[@version] and (B[@draft_state] ~= 'edited' or (W[@w_draft_op] and W[@w_draft_op] ~= B[@draft_op])) then
    return B, false, nil
  end
  local replaced
  if named > B[@version] and B[@draft_length] >= 0 then
    replaced = { draft = true, version = B[@version], op = B[@draft_op], title_version = 0, title_op = false }
  end
  local A = { unpack(B) }
  A[@draft_length], A[@version], A[@draft_op], A[@draft_state] = -1, named + 1, CH[@ch_operation], 'consumed'
  A[@draft_at], A[@draft_device] = CH[@ch_at], CH[@ch_device]
  A[@updated_at] = math.max(B[@updated_at], CH[@ch_at])
  return A, true, replaced
end

local function add_message(V)
  local before = V.chat
  local B = before or new_chat(V.epoch)
  local message = known_message(V)
  if B[@older] and not W[@w_stored] and W[@w_seen] ~= B[@messages_version] and not message then return { code = 'U' } end
  local A, consumed, replaced = consume(B)
  local own = B[@draft_state] == 'consumed' and B[@version] == (W[@w_draft_version] or 0) + 1
  local draft
  if consumed then draft = false end
  local items = consumed and { { 'draft', A[@version], false } } or {}
  if message then
    -- The text was consumed when the message was new, or was lost and restored in between and is consumed now.
    if not before and A == B then A = { unpack(B) } end
    local D = accepted(before, A, { items = items, again = true, consumed = consumed or own, message = message, replaced = replaced })
    D.draft = draft
    return D
  end
  message = { W[@w_id], B[@last_sequence] + 1, 'sent', CH[@ch_at], W[@w_size], 0 }
  -- After a loss a device may have brought back the very revision that this message made of the draft.
  consumed = consumed or (own and CH[@ch_operation] and B[@draft_op] == CH[@ch_operation])
  if A == B then A = { unpack(B) } end
  local messages = messages_of(V)
  message[@m_place] = #messages + 1
  messages[#messages + 1] = message
  local gone = with_messages(A, messages)
  A[@messages_version] = B[@messages_version] + 1
  A[@last_message_timestamp] = CH[@ch_at]
  A[@updated_at] = math.max(B[@updated_at], CH[@ch_at])
  local D = over_quota(V, before, A)
  if D then return D end
  items[#items + 1] = { 'message', A[@messages_version], message[@m_id] }
  -- The chat begins with its message: the others are told of the chat as it is now, and then of the message.
  if not before then items = { { 'added', A[@version], false }, items[#items] } end
  D = accepted(before, A, {
    items = items, entries = { { B[@messages_version] == 0 and 'first_message' or 'message', message[@m_id] } },
    due = false, consumed = consumed, message = message, replaced = replaced,
  })
  D.draft, D.messages, D.gone, D.body = draft, messages, gone, FIRST
  return D
end

changes.message = add_message
