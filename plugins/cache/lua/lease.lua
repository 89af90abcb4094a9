-- Places with an end and a note. KEYS[1] the lease, KEYS[2] the shard; ARGV[1] the settings, ARGV[2] what to do.
-- A field per holder: its end in milliseconds, its fence, its note. Times are the server's: hosts' clocks do not matter.

local call, pack, open = redis.call, cmsgpack.pack, cmsgpack.unpack
local SET = open(ARGV[1])
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + SET[@skew]
local LEASE, SHARD = KEYS[1], KEYS[2]

local function places()
  local held, last, found = {}, 0, call('HGETALL', LEASE)
  for at = 1, #found, 2 do
    local place = open(found[at + 1])
    if place[1] > now then
      held[#held + 1] = { found[at], place }
      last = math.max(last, place[1])
    elseif ARGV[2] == 'take' then
      call('HDEL', LEASE, found[at])
    end
  end
  return held, last
end

if ARGV[2] == 'take' then
  local holder, milliseconds, most, note = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
  local held, last = places()
  local fence
  for _, each in ipairs(held) do
    if each[1] == holder then fence = each[2][2] end
  end
  if not fence then
    if #held >= most then return false end
    -- Above every fence before, also those of a cache that was lost: it begins at the clock.
    fence = math.max(tonumber(call('HGET', SHARD, 'fence') or '0') + 1, now * 1000)
    call('HSET', SHARD, 'fence', string.format('%.0f', fence))
  end
  call('HSET', LEASE, holder, pack({ now + milliseconds, fence, note }))
  call('PEXPIRE', LEASE, string.format('%.0f', math.max(last, now + milliseconds) - now + 1000))
  return string.format('%.0f', fence)
end
if ARGV[2] == 'leave' then
  local raw = call('HGET', LEASE, ARGV[3])
  if raw then
    local place = open(raw)
    if place[1] > now and string.format('%.0f', place[2]) == ARGV[4] then call('HDEL', LEASE, ARGV[3]) end
  end
  return 1
end
local answer = {}
for _, each in ipairs((places())) do
  answer[#answer + 1] = each[1]
  answer[#answer + 1] = each[2][3]
end
return answer
