-- What every script of a person shares: the keys, the time, the person's record, chats and their lives.
-- The twin of memory_person.py and memory_state.py. A name behind an at sign is a place in a packed array; redis_layout.py puts its number there.
-- KEYS are those of one person and of that person's shard, all in one slot; ARGV[1] the settings, ARGV[2] the user,
-- ARGV[3] eight random hex digits. Where a script carries out several changes, these are the first one's; see commit.lua.

local PERSON, LOG, OUTCOMES, TOKENS, LRU, ENDS, DUE, VISITS, INDEX = unpack(KEYS, 1, 9)
local call, pack, open = redis.call, cmsgpack.pack, cmsgpack.unpack
local part = cmsgpack.unpack_limit -- what it leaves, and the fields of an array whose head it is told to skip
local SET, USER, RANDOM = { select(2, part(ARGV[1], @MOST, @SETTINGS_HEAD)) }, ARGV[2], ARGV[3]

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + SET[@skew] -- milliseconds, of the server and nobody else
local shortest = math.min(SET[@ttl], SET[@draft_ttl]) -- the shortest life of a chat that nobody touches

local later = {} -- functions that few runs need; see the end

-- Writes to the person's hash are gathered and made in one call: a call costs more than what it does.
local writes = {}

local function set(field, value)
  writes[#writes + 1] = field
  writes[#writes + 1] = value
end

-- the person -------------------------------------------------------------------------------------------------------------

local function read_person(raw)
  -- The person's record, and whether an epoch had to be made.
  local P = raw and open(raw)
  local begun = false
  if not P then
    P = { false, 0, '00000000', 0, '00000000', 0, 0, 0, now, now, 0, 0, now + 3600000, {} }
  end
  if not P[@p_epoch] or now - P[@p_seen] > SET[@events_ttl] then
    later.begin_epoch(P)
    begun = true
  end
  return P, begun
end

local function write_person(P)
  P[@p_seen] = now
  if P[@p_visit] == 0 then
    P[@p_visit] = now + shortest + 1000
    call('ZADD', VISITS, P[@p_visit], USER)
  end
  set('p', pack(P))
  call('HSET', PERSON, unpack(writes))
  writes = {}
end

-- chats ------------------------------------------------------------------------------------------------------------------

local function pinned(C)
  return C[@version] > C[@stored_version] or C[@title_version] > C[@stored_title_version] or C[@undelivered] > 0
    or C[@messages_version] == 0 or C[@doomed]
end

local function weight(C)
  return 512 + math.max(C[@draft_length], 0) + math.max(C[@title_length], 0) + C[@message_bytes]
end

local function count(P, C, sign)
  if pinned(C) then
    P[@p_bytes] = P[@p_bytes] + sign * weight(C)
    if C[@messages_version] == 0 then P[@p_drafts] = P[@p_drafts] + sign end
  end
end

local function mark_due(chat, C)
  -- A mark that stands is left alone: whoever comes for it sees that a later edit has put it off. One whose time is over should
  -- have been taken, and is made again in case it was lost.
  local stands = C[@due_first] > now
  if C[@due_first] == 0 then C[@due_first] = now + SET[@max_debounce] end
  C[@due_at] = math.min(C[@due_first], now + SET[@debounce])
  if not stands then call('ZADD', DUE, C[@due_at], USER .. ':' .. chat) end
end

local crowded = false -- whether a chat became one that may be evicted

local function settle_place(chat, C)
  -- Whether the chat may be evicted, after it or its entries changed. The caller writes the chat.
  if pinned(C) or later.holds_entry(chat) then
    if C[@evictable] then
      call('ZREM', LRU, chat)
      C[@evictable] = false
    end
  elseif not C[@evictable] then
    call('ZADD', LRU, C[@used], chat)
    C[@evictable] = true
    crowded = true
  end
end

local function put_chat(P, chat, C, before)
  -- The chat is now this; `before` is what was here, or nil. The caller writes the chat.
  if before then
    count(P, before, -1)
  else
    later.look_at(P, chat, now + shortest)
  end
  C[@touched] = now
  count(P, C, 1)
  settle_place(chat, C)
end

-- later: making a function costs as much as a small call, so these are made when the first of them is asked for ----------------

setmetatable(later, { __index = function(_, name)
  function later.flush()
    if #writes > 0 then
      call('HSET', PERSON, unpack(writes))
      writes = {}
    end
  end

  function later.begin_epoch(P, after)
    -- Epochs sort by their time, so a new one is later than every one that is known, even if a clock went back.
    local at = now
    if P[@p_epoch] then at = math.max(at, tonumber(string.sub(P[@p_epoch], 1, 12), 16) + 1) end
    if after then at = math.max(at, tonumber(string.sub(after, 1, 12), 16) + 1) end
    P[@p_epoch] = string.format('%012x', at) .. RANDOM
    P[@p_base], P[@p_end], P[@p_base_tag], P[@p_tag] = 0, 0, '00000000', '00000000'
    call('DEL', LOG)
  end

  function later.trim_log(P)
    -- At most so many entries are kept; the tag of the last one that went is the tag of the log's beginning.
    while P[@p_end] - P[@p_base] > SET[@events_kept] do
      local gone = call('LPOP', LOG)
      P[@p_base] = P[@p_base] + 1
      P[@p_base_tag] = gone and open(gone)[@i_tag] or '00000000'
    end
  end

  function later.trim_log_by_age(P)
    while P[@p_end] > P[@p_base] do
      local oldest = call('LINDEX', LOG, 0)
      if oldest and open(oldest)[@i_at] >= now - SET[@events_ttl] then return end
      call('LPOP', LOG)
      P[@p_base] = P[@p_base] + 1
      P[@p_base_tag] = oldest and open(oldest)[@i_tag] or '00000000'
    end
  end

  function later.spoil(P, chat)
    if now <= P[@p_tokens] then
      local number = call('HGET', TOKENS, 'n')
      if number then call('HSET', TOKENS, 's:' .. chat, number) end
    end
  end

  function later.holds_token(token, chat)
    local found = call('HMGET', TOKENS, 't:' .. token .. ':' .. chat, 's:' .. chat)
    if not found[1] then return false end
    local number, ends = string.match(found[1], '^(%d+):(%d+)$')
    return tonumber(ends) > now and (tonumber(found[2] or '0') < tonumber(number))
  end

  function later.holds_entry(chat)
    -- Whether the outbox has an entry of this chat, waiting or parked, for anybody.
    local name = USER .. ':' .. chat
    return #call('ZRANGEBYLEX', INDEX, '[' .. name .. '\31', '(' .. name .. '\32', 'LIMIT', 0, 1) > 0
  end

  function later.ends_at(P, chat, C)
    -- When the chat's life is over if nothing happens; nil for one that has no end.
    if C[@messages_version] == 0 then
      if C[@doomed] or later.holds_entry(chat) then return nil end
      return math.max(C[@touched], P[@p_polled]) + SET[@draft_ttl]
    end
    if pinned(C) or later.holds_entry(chat) then return nil end
    return C[@touched] + SET[@ttl]
  end

  function later.over(P, chat, C)
    -- Whether the chat's life is over.
    if now - C[@touched] <= shortest then return false end
    local ends = later.ends_at(P, chat, C)
    return ends ~= nil and ends < now
  end

  function later.read_chat(chat)
    local raw = call('HGET', PERSON, 'c:' .. chat)
    return raw and { select(2, part(raw, @MOST, @CHAT_HEAD)) } or nil
  end

  function later.write_chat(chat, C)
    local packed = pack(C)
    set('c:' .. chat, packed)
    return packed
  end

  function later.read_messages(chat)
    local raw = call('HGET', PERSON, 'm:' .. chat)
    return raw and open(raw) or {}
  end

  function later.write_messages(chat, messages)
    if #messages == 0 then
      call('HDEL', PERSON, 'm:' .. chat)
    else
      set('m:' .. chat, pack(messages))
    end
  end

  function later.drop_bodies(chat, messages)
    local names = {}
    for place, message in ipairs(messages) do names[place] = 'b:' .. chat .. ':' .. message[@m_id] end
    if names[1] then call('HDEL', PERSON, unpack(names)) end
  end

  function later.remove_chat(P, chat, C)
    count(P, C, -1)
    if C[@message_count] > 0 then later.drop_bodies(chat, later.read_messages(chat)) end
    call('HDEL', PERSON, 'c:' .. chat, 'd:' .. chat, 't:' .. chat, 'm:' .. chat)
    call('ZREM', ENDS, chat)
    if C[@evictable] then call('ZREM', LRU, chat) end
    if C[@due_first] ~= 0 then call('ZREM', DUE, USER .. ':' .. chat) end
  end

  function later.let_go(P, chat, C)
    -- The chat is not here any more, and a fill that began before does not bring it back.
    later.spoil(P, chat)
    later.remove_chat(P, chat, C)
  end

  function later.look_at(P, member, when)
    -- Somebody looks at this chat or tombstone then, to see whether its time is over.
    call('ZADD', ENDS, when, member)
    P[@p_look] = math.min(P[@p_look], when)
  end

  function later.evict(P)
    -- Lets go of the least recently used clean chats over the limit. They are in the store.
    later.flush()
    local surplus = call('ZCARD', LRU) - SET[@active]
    if surplus > 0 then
      for _, chat in ipairs(call('ZRANGE', LRU, 0, surplus - 1)) do
        local C = later.read_chat(chat)
        if C then later.let_go(P, chat, C) else call('ZREM', LRU, chat) end
      end
    end
  end

  function later.expire_some(P, most)
    -- Lets go of what is over, looking at no more than `most` places. A touch costs nothing: its chat is looked at again.
    if now < P[@p_look] then return 0 end
    local looked = call('ZRANGEBYSCORE', ENDS, '-inf', '(' .. now, 'LIMIT', 0, most)
    for _, member in ipairs(looked) do
      if string.sub(member, 1, 2) == 'x:' then
        call('HDEL', PERSON, member)
        call('ZREM', ENDS, member)
      else
        local C = later.read_chat(member)
        if not C then
          call('ZREM', ENDS, member)
        elseif later.over(P, member, C) then
          later.let_go(P, member, C)
        else
          local ends = later.ends_at(P, member, C) or (now + shortest)
          call('ZADD', ENDS, math.max(ends, now + 1), member)
        end
      end
    end
    local following = call('ZRANGE', ENDS, 0, 0, 'WITHSCORES')[2]
    P[@p_look] = following and tonumber(following) or (now + 3600000)
    return #looked
  end

  function later.tombstone_of(raw)
    -- When the chat was deleted, in microseconds; nil without a tombstone or with one whose time is over.
    if not raw then return nil end
    local found = open(raw)
    if found[2] >= now - SET[@tombstones_ttl] then return found[1] end
    return nil
  end

  function later.keep_reading(...)
    -- A write that only prolongs a life: while the server has no room, or cannot save, reading goes on without it.
    local answer = redis.pcall(...)
    if type(answer) == 'table' and answer.err then
      if not string.find(answer.err, 'OOM', 1, true) and not string.find(answer.err, 'MISCONF', 1, true) then
        return error(answer.err)
      end
    end
    return answer
  end

  return rawget(later, name)
end })
