-- Entries of the outbox, as scripts of a person append and remove them. The twin of memory_queue.py.
-- An entry stands once in SHARD (`e:`), in WAITING or PARKED for each plugin that has not passed it (`plugin \31 id`), and
-- in INDEX under its chat (`user:chat \31 plugin \31 id`).

local function plugins()
  local raw = call('HGET', SHARD, 'plugins')
  if raw then return open(raw) end
  -- Nobody has joined yet, or everything was lost: what is appended from now on is for those that this process works for.
  if #SET[@plugins] > 0 then call('HSET', SHARD, 'plugins', pack(SET[@plugins])) end
  return SET[@plugins]
end

local function is_text(kind) return kind == 'draft' or kind == 'title' end

local function open_field(plugin, name, kind) return 't:' .. plugin .. '\31' .. name .. '\31' .. kind end
local function parked_field(plugin, name) return 'k:' .. plugin .. '\31' .. name end

local function append_entry(user, chat, kind, message, at)
  -- Behind a parked entry of its chat it is parked too; a draft or title that nobody was handed yet need not wait twice.
  local name = user .. ':' .. (chat or '')
  local id, wanted = nil, 0
  for _, plugin in ipairs(plugins()) do
    local open_at = open_field(plugin, name, kind)
    if not is_text(kind) or call('HEXISTS', SHARD, open_at) == 0 then
      if not id then
        -- The number begins at the clock, so that none comes twice even if everything was lost.
        local number = math.max(tonumber(call('HGET', SHARD, 'n') or '0') + 1, now * 1000)
        call('HSET', SHARD, 'n', string.format('%.0f', number))
        id = string.format('%020.0f', number) .. '-' .. SET[@shard]
      end
      wanted = wanted + 1
      local parked = call('HGET', SHARD, parked_field(plugin, name))
      if parked then call('HINCRBY', SHARD, parked_field(plugin, name), 1) end
      call('ZADD', parked and PARKED or WAITING, 0, plugin .. '\31' .. id)
      call('ZADD', INDEX, 0, name .. '\31' .. plugin .. '\31' .. id)
      if is_text(kind) then call('HSET', SHARD, open_at, id) end
    end
  end
  if id then call('HSET', SHARD, 'e:' .. id, pack({ user, chat or false, kind, message or false, at, wanted })) end
end

local function unpark(plugin, name)
  if call('HINCRBY', SHARD, parked_field(plugin, name), -1) <= 0 then call('HDEL', SHARD, parked_field(plugin, name)) end
end

local function remove_entry(plugin, id)
  -- Takes an entry out for one plugin; its chat's name, or nil if the entry was not here.
  local member = plugin .. '\31' .. id
  local waited = call('ZREM', WAITING, member) == 1
  if not waited and call('ZREM', PARKED, member) == 0 then return nil end
  local raw = call('HGET', SHARD, 'e:' .. id)
  if not raw then return nil end
  local E = open(raw)
  local name = E[@e_user] .. ':' .. (E[@e_chat] or '')
  if not waited then unpark(plugin, name) end
  call('ZREM', INDEX, name .. '\31' .. plugin .. '\31' .. id)
  call('HDEL', SHARD, 'y:' .. member)
  if is_text(E[@e_kind]) and call('HGET', SHARD, open_field(plugin, name, E[@e_kind])) == id then
    call('HDEL', SHARD, open_field(plugin, name, E[@e_kind]))
  end
  E[@e_left] = E[@e_left] - 1
  if E[@e_left] <= 0 then
    call('HDEL', SHARD, 'e:' .. id)
  else
    call('HSET', SHARD, 'e:' .. id, pack(E))
  end
  return name
end

local function entries_of(prefix, last)
  -- Of a chat (`user:chat \31`) or a person (`user:`): plugin, id, by chat, plugin and number.
  local found = {}
  for _, member in ipairs(call('ZRANGEBYLEX', INDEX, '[' .. prefix, '(' .. last)) do
    local plugin, id = string.match(member, '\31([^\31]*)\31([^\31]*)$')
    found[#found + 1] = { plugin, id }
  end
  return found
end

local function drop_entries(prefix, last, keep)
  -- Everything of this chat or person but the kinds to keep.
  for _, each in ipairs(entries_of(prefix, last)) do
    local raw = call('HGET', SHARD, 'e:' .. each[2])
    if not raw or not keep[open(raw)[@e_kind]] then remove_entry(each[1], each[2]) end
  end
end
