-- What every script of a shard's outbox shares. KEYS are those of one shard; ARGV[1] the settings, ARGV[2] the plugin.
-- The keys have the names that entries.lua uses; those of a person are not among them.

local DUE, WAITING, PARKED, SHARD, INDEX, RELEASED, LEASE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local USER, PERSON, ENDS = false, false, false
local call, pack, open = redis.call, cmsgpack.pack, cmsgpack.unpack
local SET, PLUGIN = open(ARGV[1]), ARGV[2]
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + SET[@skew]

local function lease_lost()
  -- Whether this worker (ARGV[3] holder, ARGV[4] fence) holds the shard no longer under this very fence.
  local raw = call('HGET', LEASE, ARGV[3])
  if not raw then return true end
  local place = open(raw)
  return place[1] <= now or string.format('%.0f', place[2]) ~= ARGV[4]
end

local function id_of(member) return string.match(member, '\31([^\31]*)$') end

local function tries_of(member) return tonumber(call('HGET', SHARD, 'y:' .. member) or '0') end

local function entry_of(member)
  local id = id_of(member)
  return { id, call('HGET', SHARD, 'e:' .. id), tries_of(member) }
end

local function members(key, plugin, limit)
  if limit then return call('ZRANGEBYLEX', key, '[' .. plugin .. '\31', '(' .. plugin .. '\32', 'LIMIT', 0, limit) end
  return call('ZRANGEBYLEX', key, '[' .. plugin .. '\31', '(' .. plugin .. '\32')
end

local function released(name)
  -- Nothing of this chat waits any more: it may be evicted. Its person's script sees to that.
  if #call('ZRANGEBYLEX', INDEX, '[' .. name .. '\31', '(' .. name .. '\32', 'LIMIT', 0, 1) == 0 then
    call('SADD', RELEASED, name)
    return true
  end
  return false
end
