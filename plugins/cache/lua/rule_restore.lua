-- What a device holds and the server lost is put back, revision and all. The twin of rule/restoring.py.

local function restore(V)
  local before = V.chat
  local B = before or new_chat(V.epoch)
  local A, lost, draft, title = B, false, nil, nil
  local replaced = { version = 0, op = false, title_version = 0, title_op = false }
  local gave_way = false
  if W[@w_draft] then
    if W[@w_draft][@d_version] > B[@version] then
      if B[@draft_length] >= 0 then
        replaced.draft, replaced.version, replaced.op, gave_way = true, B[@version], B[@draft_op], true
      end
      A = { unpack(A) }
      draft = W[@w_draft][@d_has_content] and FIRST or false
      A[@draft_length] = draft and #draft or -1
      A[@version], A[@draft_op], A[@draft_state] = W[@w_draft][@d_version], W[@w_draft][@d_op], W[@w_draft][@d_state]
      A[@draft_at], A[@draft_device] = CH[@ch_at], CH[@ch_device]
    elseif W[@w_draft][@d_version] < B[@version] or W[@w_draft][@d_op] ~= B[@draft_op] then
      lost = reason_of(B)
    end
  end
  if W[@w_title] and W[@w_title][@t_version] > B[@title_version] then
    if B[@title_length] >= 0 then
      replaced.title, replaced.title_version, replaced.title_op, gave_way = true, B[@title_version], B[@title_op], true
    end
    A = { unpack(A) }
    title = W[@w_title][@t_has_content] and SECOND or false
    A[@title_length] = title and #title or -1
    A[@title_version], A[@title_op] = W[@w_title][@t_version], W[@w_title][@t_op]
    A[@title_at], A[@title_device] = CH[@ch_at], CH[@ch_device]
  end
  if W[@w_messages_version] > B[@messages_version] then
    A = { unpack(A) }
    A[@messages_version] = W[@w_messages_version]
  end
  if A == B then
    if not before then return conflict('missing') end -- the device holds nothing either: no chat to make of that
    if lost then return conflict(lost, B) end
  else
    A[@updated_at] = math.max(B[@updated_at], CH[@ch_at])
    local D = over_quota(V, before, A)
    if D then return D end
  end
  local D = accepted(before, A, {
    items = { { 'restored', A[@version], false } }, replaced = gave_way and replaced or nil, draft_lost = lost,
  })
  D.draft, D.title = draft, title
  return D
end

changes.restore = restore
