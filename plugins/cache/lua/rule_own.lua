-- The end of a chat, and the sidecar's own changes. The twin of rule/storing.py.

local function no_versions(messages_version)
  -- The sidecar's own changes tell of no versions but that of the messages.
  return { 0, false, 0, false, messages_version }
end

local function doom_chat(V)
  if V.tombstone then return { code = 'A', deleted = V.tombstone, again = true } end
  local D = { code = 'A', at = CH[@ch_at], doomed = true, record = V.chat, versions = no_versions(0) }
  if V.chat and not V.chat[@doomed] then
    D.put = { unpack(V.chat) }
    D.put[@doomed] = true
  end
  if CH[@ch_operation] then
    D.remember = { CH[@ch_digest], CH[@ch_at], true, false, 'delete', 0, false, 0, false, 0, false, false, false, false, false, now }
  end
  return D
end

local function delete_chat(V)
  if V.tombstone then return { code = 'A', deleted = V.tombstone, again = true } end
  return { code = 'A', at = CH[@ch_at], deleted = CH[@ch_at], bury = true, items = { { 'deleted', 0, false } }, entries = { { 'deleted', false } } }
end

local function with_status(C, messages, id, status)
  -- The chat with that message's status changed, or nil if there is nothing to change.
  local place = place_of(messages, id)
  if not place or messages[place][@m_status] == status then return nil end
  local function lacks(each) return (each == 'sent' or each == 'error') and 1 or 0 end
  local A = { unpack(C) }
  A[@undelivered] = A[@undelivered] + lacks(status) - lacks(messages[place][@m_status])
  A[@messages_version] = A[@messages_version] + 1
  messages[place][@m_status] = status
  return A, messages[place]
end

local function set_status(V)
  local C = V.chat
  if not C then return { code = 'C', reason = 'missing' } end
  local messages = messages_of(V)
  local A, message = with_status(C, messages, W[@w_id], W[@w_status])
  if not A then return { code = 'A', versions = no_versions(C[@messages_version]), again = true, record = C } end
  return {
    code = 'A', versions = no_versions(A[@messages_version]), record = A, put = A, messages = messages, touched = message,
    items = { { 'message_update', A[@messages_version], W[@w_id] } },
  }
end

local function message_elsewhere(V)
  local C = V.chat
  if not C or C[@doomed] or C[@messages_version] == 0 then return { code = 'C', reason = 'missing' } end
  local messages = messages_of(V)
  local place = place_of(messages, W[@w_id])
  local message = place and messages[place] or nil
  if message and message[@m_status] ~= 'delivered' then
    return { code = 'A', versions = no_versions(C[@messages_version]), again = true, record = C }
  end
  local A, gone = { unpack(C) }, nil
  A[@messages_version] = A[@messages_version] + 1
  if message and W[@w_deleted] then
    gone = { table.remove(messages, place) }
    A[@message_bytes] = A[@message_bytes] - 256 - message[@m_size]
    A[@message_count] = #messages
  end
  local kind = W[@w_deleted] and 'message_deleted' or 'message'
  return {
    code = 'A', versions = no_versions(A[@messages_version]), record = A, put = A, messages = gone and messages or nil, gone = gone,
    items = { { kind, A[@messages_version], W[@w_id] } }, entries = { { 'title', false } },
  }
end

local function mark_stored(V)
  local C = V.chat
  if not C then return { code = 'C', reason = 'missing' } end
  local A, items, messages, gone, message = C, {}, nil, nil, nil
  if W[@w_id] then
    local kept = messages_of(V)
    local changed, touched = with_status(C, kept, W[@w_id], 'delivered')
    if changed then
      A, messages, message = changed, kept, touched
      if #messages > SET[@messages_kept] then gone = with_messages(A, messages) end
      items[1] = { 'message_update', A[@messages_version], W[@w_id] }
    end
  end
  local version = math.max(C[@stored_version], math.min(W[@w_stored_version], C[@version]))
  local title_version = math.max(C[@stored_title_version], math.min(W[@w_stored_title_version], C[@title_version]))
  if version > C[@stored_version] or title_version > C[@stored_title_version] then
    items[#items + 1] = { 'stored', version, false }
  end
  if #items > 0 or not C[@in_store] then
    if A == C then A = { unpack(C) } end
    A[@stored_version], A[@stored_title_version], A[@in_store] = version, title_version, true
  end
  return {
    code = 'A', versions = no_versions(A[@messages_version]), record = A, put = A ~= C and A or nil, items = items,
    messages = messages, gone = gone, touched = message,
  }
end

own.doom, own.delete, own.stored, own.status = doom_chat, delete_chat, mark_stored, set_status
own.elsewhere = message_elsewhere

function own.epoch(V) return { code = 'A', new_epoch = W[@w_epoch] == V.epoch } end

function own.notify()
  return { code = 'A', items = { { 'notice', 0, W[@w_name] } }, entries = W[@w_name] == 'erased' and { { 'erased', false } } or {} }
end
