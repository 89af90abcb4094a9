-- One change, in one atomic step. ARGV[4] what it asks, ARGV[5] and ARGV[6] its sealed texts.

CH, W = {}, {}
do
  local a = open(ARGV[4])
  CH = {
    kind = a[1], chat = a[2], device = a[3] or false, key = a[4], operation = a[5] or false, digest = a[6], at = a[7],
    connection = a[8] or false, token = a[9],
  }
  local kind, w = CH.kind, a[10]
  if kind == 'draft' or kind == 'title' then
    W = { base = w[1], base_op = w[2], has_content = w[3], has_messages = w[4] }
  elseif kind == 'restore' then
    local d, t = w[1], w[2]
    W = {
      draft = d and { has_content = d[1], state = d[2], version = d[3], op = d[4] or false },
      title = t and { has_content = t[1], version = t[2], op = t[3] or false },
      messages_version = w[3],
    }
  elseif kind == 'message' then
    W = {
      id = w[1], size = w[2], sequence = w[3], created_at = w[4], draft_version = w[5], draft_op = w[6], stored = w[7], seen = w[8],
    }
  elseif kind == 'status' then
    W = { id = w[1], status = w[2] }
  elseif kind == 'stored' then
    W = { version = w[1], title_version = w[2], id = w[3] }
  elseif kind == 'epoch' then
    W = { seen = w[1] }
  elseif kind == 'notify' then
    W = { name = w[1] }
  end
end

local chat, operation = CH.chat, CH.operation
local by_client = CH.kind == 'draft' or CH.kind == 'title' or CH.kind == 'restore' or CH.kind == 'message'
local fields = call('HMGET', PERSON, 'p', 'c:' .. chat, 'x:' .. chat, operation and ('o:' .. operation) or 'o')
local P, begun = read_person(fields[1])
local looked = expire_some(P, 8)
local expired = looked > 0
local raw = fields[2]
if expired and raw then raw = call('HGET', PERSON, 'c:' .. chat) end -- what was over may be this very chat
local C = raw and open(raw) or nil
if C and over(P, chat, C) then
  let_go(P, chat, C) -- one whose life is over and that nobody has taken away yet
  C, expired = nil, true
end

local V = { epoch = P[@p_epoch], chat = C, drafts = P[@p_drafts], bytes = P[@p_bytes] }
if not C then V.tombstone = tombstone_of(fields[3]) end
if fields[4] then
  local R = open(fields[4])
  if R[@r_since] >= now - SET[@outcomes_ttl] then V.remembered = R end
end
local index
function V.messages()
  if not index then index = V.chat and V.chat[@message_count] > 0 and read_messages(chat) or {} end
  return index
end

local D = decide(V)
if D.code == 'Q' and looked == 8 then
  expire_some(P, 1000) -- there may be more that is over, and it counts no more
  V.drafts, V.bytes, index = P[@p_drafts], P[@p_bytes], nil
  D = decide(V)
end

local function forget_outcome() call('HDEL', PERSON, 'o:' .. operation, 'rd:' .. operation, 'rt:' .. operation) end

local function text_of(prefix, length)
  return length >= 0 and call('HGET', PERSON, prefix .. chat) or false
end

-- what gave way is read before it is overwritten
local replaced_draft, replaced_title = false, false
if D.replaced then
  replaced_draft, replaced_title = D.replaced.draft or false, D.replaced.title or false
  if replaced_draft == true then replaced_draft = call('HGET', PERSON, 'd:' .. chat) end
  if replaced_title == true then replaced_title = call('HGET', PERSON, 't:' .. chat) end
end

local function keep()
  if not operation then return end
  if D.remember then
    set('o:' .. operation, pack(D.remember))
    if replaced_draft then set('rd:' .. operation, replaced_draft) end
    if replaced_title then set('rt:' .. operation, replaced_title) end
    if call('RPUSH', OUTCOMES, now .. ' ' .. operation) > @OUTCOMES then
      local oldest = string.match(call('LPOP', OUTCOMES), ' (.*)$')
      if oldest ~= operation then call('HDEL', PERSON, 'o:' .. oldest, 'rd:' .. oldest, 'rt:' .. oldest) end
    end
  elseif D.forget then
    forget_outcome()
  end
end

if D.code ~= 'A' then
  local winner = D.winner
  if D.code == 'C' and operation and (D.remember or D.forget) then keep() end
  if begun or expired or D.remember or now - P[@p_seen] > 60000 then write_person(P) else flush() end
  if D.code == 'C' then
    local draft, title = false, false
    if winner then draft, title = text_of('d:', winner[@draft_length]), text_of('t:', winner[@title_length]) end
    return { pack({ 'C', D.reason, D.again or false, winner and pack(winner) or false, D.tombstone or false }), draft, title }
  end
  return { pack({ D.code, D.what or false, D.limit or false }) }
end

-- everything that the decision says; nothing from here on may fail
local A = D.record or false
local start, start_tag = P[@p_end], P[@p_tag]
if D.new_epoch then
  begin_epoch(P)
  start, start_tag = 0, P[@p_tag]
  begun = true
end
if D.bury then bury(P, chat, D.deleted) end
for _, entry in ipairs(D.entries or {}) do
  append_entry(USER, entry[1] ~= 'erased' and chat or nil, entry[1], entry[2], CH.at)
end
local put = D.put
if put then
  spoil(P, chat)
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
    write_messages(chat, D.messages)
    if D.body then set('b:' .. chat .. ':' .. W.id, D.body) end
    if D.gone then drop_bodies(chat, D.gone) end
  end
  if D.due then mark_due(chat, put) end
  put_chat(P, chat, put, C)
end
local slot = put or C
if slot and by_client then
  use_chat(P, chat, slot)
  slot[@touched] = now
end
local packed = slot and (put or by_client) and write_chat(chat, slot) or nil
keep()
-- What is told of the chat is read before it may be evicted: it may have become clean by this very change.
local draft, title = D.draft, D.title
if A and draft == nil then draft = text_of('d:', A[@draft_length]) end
if A and title == nil then title = text_of('t:', A[@title_length]) end
local message, body = D.message or D.touched or false, D.body or false
if message and not body then
  body = call('HGET', PERSON, 'b:' .. chat .. ':' .. message[@m_id])
  if not body and CH.kind == 'message' then body = ARGV[5] end -- one that only the store has
end
if crowded then evict(P) end

local items = {}
if D.items and #D.items > 0 then
  local tag = ARGV[7]
  for place, item in ipairs(D.items) do
    items[place] = pack({ tag, item[1], item[1] ~= 'notice' and chat or false, item[2], item[3], CH.connection, CH.device, now })
    call('RPUSH', LOG, items[place])
  end
  P[@p_end], P[@p_tag] = P[@p_end] + #items, tag
  trim_log(P)
end
write_person(P)

if #items > 0 or begun then
  local payload
  for at = 1, #P[@p_watching], 2 do
    if P[@p_watching][at] ~= SET[@process] and P[@p_watching][at + 1] > now then
      if not payload then
        local large = (draft and #draft or 0) + (body and #body or 0) > @NOTICE
        payload = pack({
          USER, P[@p_epoch], start, start_tag, items, chat, not large and A and (A == slot and packed or pack(A)),
          not large and draft or false,
          not large and title or false, not large and message, not large and body, D.deleted or false,
        })
      end
      call('PUBLISH', SET[@channel] .. P[@p_watching][at], payload)
    end
  end
end

-- A text that was just given is not sent back: 1 stands for it.
return {
  pack({
    'A', D.version or 0, D.op or false, D.title_version or 0, D.title_op or false, D.messages_version or 0, D.at or false,
    D.created or false, D.again or false, D.consumed or false, D.doomed or false, D.draft_lost or false, A and (A == slot and packed or pack(A)), D.deleted or false,
    message, D.message and true or false,
    D.replaced and { D.replaced.version, D.replaced.op, D.replaced.title_version, D.replaced.title_op } or false,
    P[@p_epoch], P[@p_end], P[@p_tag], start, start_tag, items,
  }),
  D.draft and 1 or draft or false, D.title and 1 or title or false, D.body and 1 or body, replaced_draft, replaced_title,
}
