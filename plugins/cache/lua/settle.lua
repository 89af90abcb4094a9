-- ARGV[5]: ids that are done, that failed, that are parked. Answers whether the lease is lost, and the chats that nothing holds any more.

if lease_lost() then return { 1, {} } end
local a = open(ARGV[5])
local done, failed, aside = a[1], a[2], a[3]
local gone, free = {}, {}
for _, id in ipairs(done) do
  local name = remove_entry(PLUGIN, id)
  if name then
    gone[id] = true
    if released(name) then free[#free + 1] = name end
  end
end
for _, id in ipairs(failed) do
  local member = PLUGIN .. '\31' .. id
  if not gone[id] and call('ZSCORE', WAITING, member) then
    call('HINCRBY', SHARD, 'y:' .. member, 1)
    local E = open(call('HGET', SHARD, 'e:' .. id))
    if is_text(E[@e_kind]) then
      call('HSETNX', SHARD, open_field(PLUGIN, E[@e_user] .. ':' .. (E[@e_chat] or ''), E[@e_kind]), id)
    end
  end
end
for _, id in ipairs(aside) do
  local raw = call('HGET', SHARD, 'e:' .. id)
  if raw and not gone[id] and call('ZSCORE', WAITING, PLUGIN .. '\31' .. id) then
    local E = open(raw)
    local name = E[@e_user] .. ':' .. (E[@e_chat] or '')
    local prefix = name .. '\31' .. PLUGIN .. '\31'
    for _, member in ipairs(call('ZRANGEBYLEX', INDEX, '[' .. prefix .. id, '(' .. name .. '\31' .. PLUGIN .. '\32')) do
      local later = id_of(member)
      if call('ZREM', WAITING, PLUGIN .. '\31' .. later) == 1 then
        call('ZADD', PARKED, 0, PLUGIN .. '\31' .. later)
        call('HINCRBY', SHARD, parked_field(PLUGIN, name), 1)
        local kind = open(call('HGET', SHARD, 'e:' .. later))[@e_kind]
        if is_text(kind) then call('HSETNX', SHARD, open_field(PLUGIN, name, kind), later) end
      end
    end
  end
end
return { 0, free }
