-- The index of a chat's messages, as the rule changes it.

local function messages_of(V)
  if not V.messages then V.messages = V.chat and V.chat[@message_count] > 0 and later.read_messages(CH[@ch_chat]) or {} end
  return V.messages
end

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
