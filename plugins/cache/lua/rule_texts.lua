-- Drafts and titles: accepted on the current revision, otherwise a conflict. The twin of rule/texts.py.

local function its_own(version, op)
  -- Whether what is here is what this very change makes: its outcome was lost, and a device has brought the text back.
  return CH[@ch_operation] and version == W[@w_base] + 1 and op == CH[@ch_operation]
end

local function put_draft(V)
  local before, B = V.chat, V.chat
  if not before then
    if not W[@w_has_content] or W[@w_base] > 0 then return conflict('missing') end
    B = new_chat(V.epoch)
  else
    if its_own(B[@version], B[@draft_op]) then return accepted(before, before, { again = true }) end
    if W[@w_base] > B[@version] then return conflict('missing', B) end
    if W[@w_base] < B[@version] or (W[@w_base_op] and W[@w_base_op] ~= B[@draft_op]) then return conflict(reason_of(B), B) end
  end
  local A = { unpack(B) }
  A[@draft_length] = W[@w_has_content] and #FIRST or -1
  A[@version] = B[@version] + 1
  A[@draft_op] = CH[@ch_operation]
  A[@draft_state] = W[@w_has_content] and 'edited' or 'deleted'
  A[@draft_at], A[@draft_device] = CH[@ch_at], CH[@ch_device]
  A[@updated_at] = math.max(B[@updated_at], CH[@ch_at])
  A[@doomed] = not W[@w_has_content] and B[@messages_version] == 0 and not W[@w_has_messages]
  if W[@w_has_content] then
    local D = over_quota(V, before, A)
    if D then return D end
  end
  -- Of a doomed chat the others hear by the tombstone that follows.
  local items = A[@doomed] and {} or { { before and 'draft' or 'added', A[@version], false } }
  local D = accepted(before, A, { items = items, due = not A[@doomed] })
  D.draft = W[@w_has_content] and FIRST or false
  return D
end

local function put_title(V)
  local B = V.chat
  if B and its_own(B[@title_version], B[@title_op]) then return accepted(B, B, { again = true }) end
  if not B or W[@w_base] > B[@title_version] then return conflict('missing', B) end
  if W[@w_base] < B[@title_version] or (W[@w_base_op] and W[@w_base_op] ~= B[@title_op]) then return conflict('stale', B) end
  local A = { unpack(B) }
  A[@title_length] = W[@w_has_content] and #FIRST or -1
  A[@title_version] = B[@title_version] + 1
  A[@title_op] = CH[@ch_operation]
  A[@title_at], A[@title_device] = CH[@ch_at], CH[@ch_device]
  A[@updated_at] = math.max(B[@updated_at], CH[@ch_at])
  if W[@w_has_content] then
    local D = over_quota(V, B, A)
    if D then return D end
  end
  local D = accepted(B, A, { items = { { 'title', A[@title_version], false } } })
  D.title = W[@w_has_content] and FIRST or false
  return D
end

changes.draft, changes.title = put_draft, put_title
