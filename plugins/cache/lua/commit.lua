-- Changes, each in one atomic step. KEYS are those of one change after the other; ARGV[1] the settings, then of each change the user,
-- eight random hex digits, what it asks, and its two sealed texts. Making all these functions costs as much as a change, so that
-- changes which wait at the same moment come together. The answer is an array of theirs; an error is that of its change alone.

local function text_of(field, length)
  return length >= 0 and call('HGET', PERSON, field) or false
end

local function commit()
  local chat, operation, by_client = CH[@ch_chat], CH[@ch_operation], changes[CH[@ch_kind]]
  local chat_field, outcome_field = 'c:' .. chat, operation and 'o:' .. operation or 'o'
  local fields = call('HMGET', PERSON, 'p', chat_field, outcome_field)
  local P, begun = read_person(fields[1])
  local looked = now >= P[@p_look] and later.expire_some(P, 8) or 0
  local expired = looked > 0
  local raw = fields[2]
  if expired and raw then raw = call('HGET', PERSON, chat_field) end -- what was over may be this very chat
  local C = raw and { select(2, part(raw, @MOST, @CHAT_HEAD)) } or nil
  if C and now - C[@touched] > shortest and later.over(P, chat, C) then
    later.let_go(P, chat, C) -- one whose life is over and that nobody has taken away yet
    C, expired = nil, true
  end

  local V = { epoch = P[@p_epoch], chat = C, drafts = P[@p_drafts], bytes = P[@p_bytes] }
  if not C then V.tombstone = later.tombstone_of(call('HGET', PERSON, 'x:' .. chat)) end
  if fields[3] then
    local R = open(fields[3])
    if R[@r_since] >= now - SET[@outcomes_ttl] then V.remembered = R end
  end

  local D = V.remembered and again(V) or first_time(V)
  if D.code == 'Q' and looked == 8 then
    later.expire_some(P, 1000) -- there may be more that is over, and it counts no more
    V.drafts, V.bytes, V.messages = P[@p_drafts], P[@p_bytes], nil
    D = V.remembered and again(V) or first_time(V)
  end

  -- what gave way is read before it is overwritten
  local replaced_draft, replaced_title = false, false
  if D.replaced then
    replaced_draft, replaced_title = D.replaced.draft or false, D.replaced.title or false
    if replaced_draft == true then replaced_draft = call('HGET', PERSON, 'd:' .. chat) end
    if replaced_title == true then replaced_title = call('HGET', PERSON, 't:' .. chat) end
  end

  if operation and D.remember then
    set(outcome_field, pack(D.remember))
    if replaced_draft then set('rd:' .. operation, replaced_draft) end
    if replaced_title then set('rt:' .. operation, replaced_title) end
    if call('RPUSH', OUTCOMES, string.format('%d ', now) .. operation) > @OUTCOMES then
      local oldest = string.match(call('LPOP', OUTCOMES), ' (.*)$')
      if oldest ~= operation then call('HDEL', PERSON, 'o:' .. oldest, 'rd:' .. oldest, 'rt:' .. oldest) end
    end
  elseif D.forget and (D.code == 'A' or D.code == 'C') then
    call('HDEL', PERSON, outcome_field, 'rd:' .. operation, 'rt:' .. operation)
  end

  if D.code ~= 'A' then
    local winner = D.winner
    if begun or expired or D.remember or now - P[@p_seen] > 60000 then write_person(P) elseif writes[1] then later.flush() end
    if D.code == 'C' then
      local draft, title = false, false
      if winner then draft, title = text_of('d:' .. chat, winner[@draft_length]), text_of('t:' .. chat, winner[@title_length]) end
      return { pack({ 'C', D.reason, D.again or false, winner and pack(winner) or false, D.tombstone or false }), draft, title }
    end
    return { pack({ D.code, D.what or false, D.limit or false }) }
  end

  -- everything that the decision says; nothing from here on may fail
  local A = D.record or false
  local start, start_tag = P[@p_end], P[@p_tag]
  if D.new_epoch then
    later.begin_epoch(P)
    start, start_tag = 0, P[@p_tag]
    begun = true
  end
  if D.bury then bury(P, chat, D.deleted) end
  if D.entries then
    for _, entry in ipairs(D.entries) do
      append_entry(USER, entry[1] ~= 'erased' and chat or nil, entry[1], entry[2], CH[@ch_at])
    end
  end
  local put = D.put
  if put then
    if now <= P[@p_tokens] then later.spoil(P, chat) end
    if D.draft then
      set('d:' .. chat, D.draft)
    elseif D.draft == false then
      call('HDEL', PERSON, 'd:' .. chat)
    end
    if D.title then
      set('t:' .. chat, D.title)
    elseif D.title == false then
      call('HDEL', PERSON, 't:' .. chat)
    end
    if D.messages then
      later.write_messages(chat, D.messages)
      if D.body then set('b:' .. chat .. ':' .. W[@w_id], D.body) end
      if D.gone then later.drop_bodies(chat, D.gone) end
    end
    if D.due then mark_due(chat, put) end
    put_chat(P, chat, put, C)
  end
  local slot = put or C
  if slot and by_client then -- it is the most recently used one
    P[@p_uses] = P[@p_uses] + 1
    slot[@used], slot[@touched] = P[@p_uses], now
    if slot[@evictable] then call('ZADD', LRU, slot[@used], chat) end
  end
  local packed
  if slot and (put or by_client) then
    packed = pack(slot)
    set(chat_field, packed)
  end
  -- What is told of the chat is read before it may be evicted: it may have become clean by this very change.
  local draft, title = D.draft, D.title
  if A and draft == nil then draft = text_of('d:' .. chat, A[@draft_length]) end
  if A and title == nil then title = text_of('t:' .. chat, A[@title_length]) end
  local message, body = D.message or D.touched or false, D.body or false
  if message and not body then
    body = call('HGET', PERSON, 'b:' .. chat .. ':' .. message[@m_id])
    if not body and CH[@ch_kind] == 'message' then body = FIRST end -- one that only the store has
  end
  if crowded then later.evict(P) end

  local record = A and (A == slot and packed or pack(A)) or false
  local items = {}
  if D.items and D.items[1] then
    local tag = CH[@ch_tag]
    for place, item in ipairs(D.items) do
      items[place] = pack({ tag, item[1], item[1] ~= 'notice' and chat or false, item[2], item[3], CH[@ch_connection], CH[@ch_device], now })
    end
    call('RPUSH', LOG, unpack(items))
    P[@p_end], P[@p_tag] = P[@p_end] + #items, tag
    if P[@p_end] - P[@p_base] > SET[@events_kept] then later.trim_log(P) end
  end
  write_person(P)

  if items[1] or begun then
    local payload
    for at = 1, #P[@p_watching], 2 do
      if P[@p_watching][at] ~= SET[@process] and P[@p_watching][at + 1] > now then
        if not payload then
          local large = (draft and #draft or 0) + (body and #body or 0) > @NOTICE
          payload = pack({
            USER, P[@p_epoch], start, start_tag, items, chat, not large and record, not large and draft or false,
            not large and title or false, not large and message, not large and body, D.deleted or false,
          })
        end
        call('PUBLISH', SET[@channel] .. P[@p_watching][at], payload)
      end
    end
  end

  -- What the caller knows is not sent back: 1 stands for a text that was just given, `false` for the versions of the record.
  return {
    pack({
      'A', D.versions or false, D.at or false, D.created or false, D.again or false, D.consumed or false, D.doomed or false,
      D.draft_lost or false, D.deleted or false, message, D.message and true or false,
      D.replaced and { D.replaced.version, D.replaced.op, D.replaced.title_version, D.replaced.title_op } or false,
      P[@p_epoch], start, start_tag,
    }),
    D.draft and 1 or draft or false, D.title and 1 or title or false, D.body and 1 or body, replaced_draft, replaced_title,
    record, items,
  }
end

local answers, changes_given = {}, (#ARGV - 1) / 5
local width = #KEYS / changes_given
for number = 1, changes_given do
  local keys, given = (number - 1) * width, (number - 1) * 5 + 1
  PERSON, LOG, OUTCOMES, TOKENS, LRU, ENDS, DUE, VISITS, INDEX = unpack(KEYS, keys + 1, keys + 9)
  if width > 9 then WAITING, PARKED, SHARD, RELEASED = unpack(KEYS, keys + 10, keys + 13) end
  USER, RANDOM = ARGV[given + 1], ARGV[given + 2]
  CH = { select(2, part(ARGV[given + 3], @MOST, @CHANGE_HEAD)) }
  W, FIRST, SECOND = CH[@ch_what], ARGV[given + 4], ARGV[given + 5]
  writes, crowded = {}, false
  local done, answer = pcall(commit)
  if not done and type(answer) ~= 'table' then answer = redis.error_reply(tostring(answer)) end
  answers[number] = answer
end
return answers
